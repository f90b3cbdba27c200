//! A response of OCSP (RFC 6960) that is to be stapled: whether it is for a certificate, and until when. Its signature is the
//! client's to verify. No response is fetched here.

use x509_cert::der::asn1::{AnyRef, GeneralizedTime};
use x509_cert::der::{Decode, Error, Reader, SliceReader, Tag, TagNumber, Tagged};

/// `responseStatus` of a response that has an answer in it.
const SUCCESSFUL: &[u8] = &[0];
/// Of `SingleResponse`.
const GOOD: Tag = Tag::ContextSpecific { constructed: false, number: TagNumber(0) };
/// `[0]`, which holds what is behind it.
const TAGGED: Tag = Tag::ContextSpecific { constructed: true, number: TagNumber(0) };

/// Until when a response says that the certificate with this serial number is good, in seconds since 1970; one that says no
/// time is good for ever. `Err`: why it is not to be stapled.
pub fn good_until(response: &[u8], serial: &[u8], unix_seconds: u64) -> Result<u64, String> {
    let no_response = |error: Error| format!("this is no response of OCSP in DER: {error}");
    let single = single_response(response, serial).map_err(no_response)??;
    let until = single.next_update.unwrap_or(u64::MAX);
    if !single.is_good {
        Err("it does not say that the certificate is good".into())
    } else if single.this_update > unix_seconds || until <= unix_seconds {
        Err("it is out of date".into())
    } else {
        Ok(until)
    }
}

/// Of one certificate.
struct SingleResponse {
    is_good: bool,
    this_update: u64,
    next_update: Option<u64>,
}

fn single_response(response: &[u8], serial: &[u8]) -> Result<Result<SingleResponse, String>, Error> {
    let [status, bytes] = first(parts(AnyRef::from_der(response)?.value())?)?;
    if status.value() != SUCCESSFUL {
        return Ok(Err("the responder had no answer".into()));
    }
    let [bytes] = first(parts(bytes.value())?)?;
    let [_kind, basic] = first(parts(bytes.value())?)?;
    let [basic] = first(parts(basic.value())?)?;
    let [data] = first(parts(basic.value())?)?;
    // Behind version, responder and time.
    let data = parts(data.value())?;
    let responses = data.iter().find(|part| part.tag() == Tag::Sequence).ok_or(Tag::Sequence.value_error())?;
    for single in parts(responses.value())? {
        let single = parts(single.value())?;
        let [id, status, this_update] = first(single.clone())?;
        let [_algorithm, _issuer, _issuer_key, number] = first(parts(id.value())?)?;
        if number.value() == serial {
            let next_update = single.get(3).filter(|part| part.tag() == TAGGED);
            let next_update = next_update.map(|time| GeneralizedTime::from_der(time.value()));
            return Ok(Ok(SingleResponse {
                is_good: status.tag() == GOOD,
                this_update: seconds(this_update.decode_as()?),
                next_update: next_update.transpose()?.map(seconds),
            }));
        }
    }
    Ok(Err("it is for another certificate".into()))
}

fn seconds(time: GeneralizedTime) -> u64 {
    time.to_unix_duration().as_secs()
}

/// What stands in a constructed value, one behind the other.
fn parts(der: &[u8]) -> Result<Vec<AnyRef<'_>>, Error> {
    let mut reader = SliceReader::new(der)?;
    let mut parts = Vec::new();
    while !reader.is_finished() {
        parts.push(AnyRef::decode(&mut reader)?);
    }
    Ok(parts)
}

fn first<const N: usize>(parts: Vec<AnyRef<'_>>) -> Result<[AnyRef<'_>; N], Error> {
    parts.first_chunk::<N>().copied().ok_or(Tag::Sequence.value_error().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const SERIAL: &[u8] = &[7, 9];

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        assert!(content.len() < 128, "a short length");
        [&[tag, content.len() as u8], content].concat()
    }

    /// As `openssl ocsp` writes it, without a signature: `status` of the one certificate, good until 2027-01-16.
    fn response(status: &[u8], serial: &[u8]) -> Vec<u8> {
        let name = tlv(0x04, b"name");
        let id = tlv(0x30, &[tlv(0x30, &[]), name.clone(), name, tlv(0x02, serial)].concat());
        let time = |text: &[u8]| tlv(0x18, text);
        let next = tlv(0xa0, &time(b"20270116000000Z"));
        let single = tlv(0x30, &[id, status.to_vec(), time(b"20270101000000Z"), next].concat());
        let data = [tlv(0xa2, b"\x04\x01x"), time(b"20270101000000Z"), tlv(0x30, &single)].concat();
        let basic = tlv(0x30, &tlv(0x30, &data));
        let bytes = tlv(0x30, &[tlv(0x06, &[1, 2]), tlv(0x04, &basic)].concat());
        tlv(0x30, &[tlv(0x0a, &[0]), tlv(0xa0, &bytes)].concat())
    }

    #[test]
    fn a_response_is_stapled_while_it_says_that_this_certificate_is_good() {
        let good = response(&tlv(0x80, &[]), SERIAL);
        let until = 1_800_057_600;
        assert_eq!(good_until(&good, SERIAL, NOW), Ok(until));
        let refused = |response: &[u8], serial: &[u8], now: u64, why: &str| {
            let refused = good_until(response, serial, now);
            assert!(refused.as_ref().is_err_and(|error| error.contains(why)), "{refused:?}: not {why}");
        };
        refused(&good, SERIAL, until, "out of date");
        refused(&good, SERIAL, NOW - 30 * 24 * 3600, "out of date");
        refused(&good, &[7], NOW, "another certificate");
        refused(&response(&tlv(0xa1, &[]), SERIAL), SERIAL, NOW, "does not say that the certificate is good");
        refused(&tlv(0x30, &tlv(0x0a, &[6])), SERIAL, NOW, "no response of OCSP");
        refused(&tlv(0x30, &[tlv(0x0a, &[6]), tlv(0xa0, &[])].concat()), SERIAL, NOW, "had no answer");
        for cut in 0..good.len() {
            refused(&good[..cut], SERIAL, NOW, "no response of OCSP");
        }
    }
}
