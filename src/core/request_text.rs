//! Copies of parts of a request's head, for the access log: the head itself is rewritten in place and sent. Each part has
//! a limit. How text is escaped never enters.

use super::head::Request;

/// A part of the text of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPart {
    Method,
    Target,
    Host,
    UserAgent,
    Referer,
    RequestId,
    Service,
    /// The name of the replica that was tried last.
    Replica,
}

/// Copies of parts of a request's head, since the head itself is rewritten. Each part has a limit; what is longer is cut
/// and ends in [`RequestText::MARK`].
#[derive(Debug, Default)]
pub struct RequestText {
    bytes: Vec<u8>,
    spans: [Option<Span>; TextPart::LIMITS.len()],
}

#[derive(Clone, Copy, Debug)]
struct Span {
    at: u16,
    len: u16,
}

impl TextPart {
    /// The bytes that are kept of each part at most, in the order of the parts.
    pub const LIMITS: [usize; 8] = [32, 2048, 256, 512, 1024, 128, 64, 128];
}

impl RequestText {
    /// The end of a part that was cut.
    pub const MARK: &[u8] = b"...";
    /// The bytes of all parts at most.
    pub const MAX: usize = {
        let (mut sum, mut part) = (0, 0);
        while part < TextPart::LIMITS.len() {
            sum += TextPart::LIMITS[part];
            part += 1;
        }
        sum
    };

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans = Default::default();
    }

    /// Keeps `bytes` as this part. The part that was kept last may be replaced; others are kept once.
    pub fn keep(&mut self, part: TextPart, bytes: &[u8]) {
        let (Some(limit), Some(span)) = (TextPart::LIMITS.get(part as usize), self.spans.get_mut(part as usize)) else {
            return;
        };
        match *span {
            Some(kept) if usize::from(kept.at + kept.len) == self.bytes.len() => self.bytes.truncate(kept.at.into()),
            Some(_) => return,
            None => {}
        }
        let at = self.bytes.len();
        if bytes.len() <= *limit {
            self.bytes.extend_from_slice(bytes);
        } else {
            self.bytes.extend_from_slice(bytes.get(..limit - Self::MARK.len()).unwrap_or_default());
            self.bytes.extend_from_slice(Self::MARK);
        }
        *span = Some(Span { at: at as u16, len: (self.bytes.len() - at) as u16 });
    }

    pub fn part(&self, part: TextPart) -> Option<&[u8]> {
        let span = (*self.spans.get(part as usize)?)?;
        self.bytes.get(span.at.into()..usize::from(span.at) + usize::from(span.len))
    }

    /// Memory held, in bytes.
    pub fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Method, target, and the fields that are kept.
    pub fn keep_request(&mut self, request: &Request) {
        self.keep(TextPart::Method, request.method.as_bytes());
        self.keep(TextPart::Target, request.target.as_bytes());
        for field in request.fields {
            let part = match field.name.len() {
                4 if field.name.eq_ignore_ascii_case("host") => TextPart::Host,
                7 if field.name.eq_ignore_ascii_case("referer") => TextPart::Referer,
                10 if field.name.eq_ignore_ascii_case("user-agent") => TextPart::UserAgent,
                _ => continue,
            };
            self.keep(part, field.value);
        }
    }

    /// Method and target of a head that could not be parsed, as far as it has them.
    pub fn keep_request_line(&mut self, head: &[u8]) {
        let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        let mut words = line.split(|byte| *byte == b' ');
        for part in [TextPart::Method, TextPart::Target] {
            if let Some(word) = words.next() {
                self.keep(part, word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_kept_up_to_its_limit_and_marked_where_it_was_cut() {
        let mut text = RequestText::default();
        let limit = TextPart::LIMITS[TextPart::Target as usize];
        text.keep(TextPart::Target, &vec![b'/'; limit]);
        assert_eq!(text.part(TextPart::Target), Some(&vec![b'/'; limit][..]), "as long as may be");
        text.clear();
        text.keep(TextPart::Target, &vec![b'/'; limit + 1]);
        let cut = text.part(TextPart::Target).unwrap();
        assert!(cut.len() == limit && cut.ends_with(b"/..."));
        assert_eq!((text.part(TextPart::Host), text.held()), (None, limit));
    }

    #[test]
    fn the_last_part_may_be_replaced_and_others_stay() {
        let mut text = RequestText::default();
        text.keep(TextPart::Host, b"first");
        text.keep(TextPart::Replica, b"server1");
        text.keep(TextPart::Replica, b"s2");
        text.keep(TextPart::Host, b"second");
        assert_eq!((text.part(TextPart::Host), text.part(TextPart::Replica)), (Some(&b"first"[..]), Some(&b"s2"[..])));
        assert_eq!(text.held(), 7);
    }

    #[test]
    fn a_request_is_kept_with_host_referer_and_user_agent_whatever_their_case() {
        let named = [("HOST", "a"), ("Referer", "b"), ("user-agent", "c"), ("Referrer", "d"), ("User_Agent", "e")];
        let fields = named.map(|(name, value)| httparse::Header { name, value: value.as_bytes() });
        let mut text = RequestText::default();
        text.keep_request(&Request { method: "GET", target: "/x", minor: 1, fields: &fields });
        let kept = [TextPart::Method, TextPart::Target, TextPart::Host, TextPart::Referer, TextPart::UserAgent];
        let kept = kept.map(|part| text.part(part).map(<[u8]>::to_vec));
        assert_eq!(kept, ["GET", "/x", "a", "b", "c"].map(|part| Some(part.into())));
    }

    #[test]
    fn all_parts_at_their_longest_are_within_the_bound() {
        let long = vec![b'x'; 10_000];
        let mut text = RequestText::default();
        let parts = [
            TextPart::Method,
            TextPart::Target,
            TextPart::Host,
            TextPart::UserAgent,
            TextPart::Referer,
            TextPart::RequestId,
            TextPart::Service,
            TextPart::Replica,
        ];
        parts.into_iter().for_each(|part| text.keep(part, &long));
        assert_eq!(text.held(), RequestText::MAX);
        text.keep_request_line(b"not kept twice");
        assert_eq!(text.held(), RequestText::MAX);
    }
}
