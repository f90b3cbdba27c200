//! What is recorded of an exchange on its way from head to end. Nothing here changes what a session does, and where
//! exchanges are not recorded it does nothing.

use super::{Session, Stage};
use crate::core::context::{Context, Prng};
use crate::core::exchange::ExchangeKind;
use crate::core::exchange_record::{ExchangeEnd, RecordedHead, RetryReason};
use crate::core::request_text::TextPart;
use crate::core::snapshot::{ReplicaId, ServiceId};

const SWITCHING_PROTOCOLS: u16 = 101;

/// A request id of 128 random bits, in hexadecimal digits.
pub fn made_id(prng: &mut Prng) -> [u8; 32] {
    let mut id = [0; 32];
    for digits in id.chunks_exact_mut(8) {
        let number = prng.next_u32();
        for (i, digit) in digits.iter_mut().enumerate() {
            let nibble = (number >> (4 * i)) as u8 & 0xf;
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        }
    }
    id
}

impl Session {
    /// The name of the replica that the request is tried on, of which a session knows the id only.
    pub fn name_replica(&mut self, name: &str) {
        if let Some(record) = &mut self.record {
            record.text.keep(TextPart::Replica, name.as_bytes());
        }
    }

    /// `host` is what a TLS client asks for.
    pub(super) fn begin_tunnel_record(&mut self, service: ServiceId, host: Option<&[u8]>, cx: &mut Context) {
        let head = self.unnamed_head(service, self.upload.unscanned().len(), cx);
        let name = cx.snapshot.service(service).map(|service| &*service.name);
        let head = RecordedHead { service_name: name, begun: cx.records.now, ..head };
        self.record = cx.records.begin_tunnel(host, head);
    }

    /// A head that is refused has no exchange before its reply.
    #[cold]
    pub(super) fn begin_refused_record(&mut self, cx: &mut Context) {
        if self.exchange.is_active() {
            return;
        }
        let bytes = self.upload.unscanned();
        let service = cx.snapshot.listener(self.listener).and_then(|listener| listener.service);
        let service = service.unwrap_or(ServiceId::NONE);
        let head = self.unnamed_head(service, bytes.len(), cx);
        let name = cx.snapshot.service(service).map(|service| &*service.name);
        self.record = cx.records.begin_refused(bytes, RecordedHead { service_name: name, ..head });
    }

    fn unnamed_head(&self, service: ServiceId, read: usize, cx: &Context) -> RecordedHead<'static> {
        RecordedHead {
            client: self.client_address(),
            begun: self.head_begun_at,
            read,
            epoch: cx.snapshot.epoch,
            service,
            service_name: None,
            request_id: None,
        }
    }

    pub(super) fn record_attempt(&mut self, replica: ReplicaId, cx: &Context) {
        if let Some(record) = &mut self.record {
            record.attempt(replica, cx.records.now);
        }
    }

    pub(super) fn record_established(&mut self, cx: &Context) {
        if let Some(record) = &mut self.record {
            record.times.established = Some(cx.records.now);
        }
    }

    #[cold]
    pub(super) fn record_retry(&mut self, reason: RetryReason) {
        if let Some(record) = &mut self.record {
            record.retries.add(reason);
        }
    }

    /// A response head, interim ones included, waits to be sent.
    #[inline]
    pub(super) fn record_response_head(&mut self, status: u16) {
        if let Some(record) = &mut self.record {
            if status >= 200 || status == SWITCHING_PROTOCOLS {
                record.status = Some(status);
            }
            if status == SWITCHING_PROTOCOLS {
                record.kind = ExchangeKind::Tunnel;
            }
            record.heads_out += self.download.pending().len() as u64;
        }
    }

    #[cold]
    pub(super) fn record_reply(&mut self, status: u16, reply: &[u8]) {
        if let Some(record) = &mut self.record {
            record.status = Some(status);
            record.heads_out += memchr::memmem::find(reply, b"\r\n\r\n").map_or(0, |at| at as u64 + 4);
        }
    }

    /// The exchange will not end as it should.
    #[cold]
    pub(super) fn fail_record(&mut self, end: ExchangeEnd, why: &'static str) {
        if let Some(record) = &mut self.record {
            record.fail(end, why);
        }
    }

    /// The exchange has ended.
    #[inline]
    pub(super) fn end_record(&mut self, cx: &mut Context) {
        if let Some(mut record) = self.record.take() {
            // What was read behind the request belongs to the next one.
            record.bytes_in = record.bytes_in.saturating_sub(self.upload.unscanned().len() as u64);
            cx.records.end(record);
        }
    }

    /// An exchange that is in progress when the connection closes was aborted.
    pub(super) fn end_record_at_close(&mut self, cx: &mut Context) {
        match self.stage {
            Stage::Serving => self.fail_record(ExchangeEnd::Stopped, "the balancer or its listener stopped"),
            Stage::Lingering { .. } | Stage::Closing(_) => {
                self.fail_record(ExchangeEnd::ClientAbort, "the client disconnected");
            }
        }
        self.end_record(cx);
    }

    /// Memory held for the record's text, in bytes.
    pub(super) fn record_held(&self) -> usize {
        self.record.as_ref().map_or(0, |record| record.text.held())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal_and_differ() {
        let mut prng = Prng::new(7);
        let ids: Vec<[u8; 32]> = (0..4).map(|_| made_id(&mut prng)).collect();
        assert!(ids.iter().flatten().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{ids:?}");
        let used: std::collections::BTreeSet<u8> = ids.iter().flatten().copied().collect();
        assert_eq!(used.len(), 16, "every digit occurs: {used:?}");
        assert!(ids.iter().enumerate().all(|(i, id)| !ids[..i].contains(id)));
    }
}
