//! A second parser of requests, independent of the crate and as strict as RFC 9112: it accepts what may be sent to a
//! replica and panics on whatever another parser could read differently.

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Framed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framed {
    Nothing,
    Length(Vec<u8>),
    Chunked { data: Vec<u8>, trailers: Vec<(String, Vec<u8>)> },
}

/// The complete requests at the start of `bytes`, and their length in bytes.
pub fn requests(bytes: &[u8]) -> (Vec<Request>, usize) {
    let (mut all, mut at) = (Vec::new(), 0);
    while let Some((request, len)) = request(&bytes[at..]) {
        at += len;
        all.push(request);
    }
    (all, at)
}

/// Whether `bytes` hold a complete head.
pub fn has_head(bytes: &[u8]) -> bool {
    find(bytes, b"\r\n\r\n").is_some()
}

impl Request {
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_slice())
    }

    pub fn text(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        write_fields(&mut text, &self.fields);
        text.extend_from_slice(b"\r\n");
        match &self.body {
            Framed::Nothing => {}
            Framed::Length(body) => text.extend_from_slice(body),
            Framed::Chunked { data, trailers } => {
                if !data.is_empty() {
                    text.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                    text.extend_from_slice(data);
                    text.extend_from_slice(b"\r\n");
                }
                text.extend_from_slice(b"0\r\n");
                write_fields(&mut text, trailers);
                text.extend_from_slice(b"\r\n");
            }
        }
        text
    }
}

fn write_fields(text: &mut Vec<u8>, fields: &[(String, Vec<u8>)]) {
    for (name, value) in fields {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value);
        text.extend_from_slice(b"\r\n");
    }
}

fn request(bytes: &[u8]) -> Option<(Request, usize)> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let mut lines = lines(&bytes[..head - 2]);
    let line = lines.remove(0);
    let parts: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let [method, target, version] = parts[..] else { panic!("request line {:?}", text(line)) };
    assert!(is_token(method), "method {:?}", text(method));
    assert!(!target.is_empty() && target.iter().all(|b| (b'!'..=b'~').contains(b)), "target {:?}", text(target));
    assert!(target[0] == b'/' || target == b"*", "target {:?} is in origin-form or asterisk-form", text(target));
    assert_eq!(text(version), "HTTP/1.1", "our own version");
    let fields: Vec<_> = lines.into_iter().map(field).collect();
    let mut request = Request { method: text(method), target: text(target), fields, body: Framed::Nothing };
    assert_forwardable(&request);
    let rest = &bytes[head..];
    let (body, len) = if request.values("transfer-encoding").next().is_some() {
        chunked(rest)?
    } else if let Some(length) = request.values("content-length").next().map(number) {
        (Framed::Length(rest.get(..length)?.to_vec()), length)
    } else {
        (Framed::Nothing, 0)
    };
    request.body = body;
    Some((request, head + len))
}

/// What holds for every request that is sent to a replica.
fn assert_forwardable(request: &Request) {
    let count = |name: &str| request.values(name).count();
    assert_eq!(count("host"), 1, "exactly one Host");
    assert!(count("content-length") + count("transfer-encoding") <= 1, "one framing field: {request:?}");
    assert!(request.values("transfer-encoding").all(|v| v == b"chunked"), "{request:?}");
    assert!(request.values("content-length").all(|v| v == b"0" || v[0] != b'0'), "{request:?}");
    for name in ["keep-alive", "proxy-connection", "te", "http2-settings"] {
        assert_eq!(count(name), 0, "{name} is hop-by-hop");
    }
    let upgrade = count("upgrade");
    assert!(upgrade <= 1 && count("connection") == upgrade, "Connection is sent with Upgrade only: {request:?}");
    assert!(request.values("connection").all(|v| v == b"upgrade"));
    assert!(request.values("via").filter(|v| v.ends_with(b" ringway")).count() <= 1, "Via");
    assert!(count("x-forwarded-for") >= 1 && count("x-forwarded-proto") == 1, "{request:?}");
}

fn chunked(bytes: &[u8]) -> Option<(Framed, usize)> {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let end = at + find(&bytes[at..], b"\r\n")?;
        let digits = &bytes[at..end];
        assert!(!digits.is_empty() && digits.len() <= 16, "chunk size {:?}", text(digits));
        assert!(digits.iter().all(u8::is_ascii_hexdigit), "chunk size {:?}", text(digits));
        let size = usize::from_str_radix(&text(digits), 16).expect("a chunk size");
        at = end + 2;
        if size == 0 {
            let mut trailers = Vec::new();
            loop {
                let end = at + find(&bytes[at..], b"\r\n")?;
                let line = &bytes[at..end];
                at = end + 2;
                if line.is_empty() {
                    return Some((Framed::Chunked { data, trailers }, at));
                }
                trailers.push(field(line));
            }
        }
        data.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size;
        let end = bytes.get(at..at + 2)?;
        assert_eq!(end, b"\r\n", "chunk data ends with CRLF");
        at += 2;
    }
}

fn lines(head: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(end) = find(rest, b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    assert!(rest.is_empty(), "a line that does not end: {:?}", text(rest));
    lines
}

fn field(line: &[u8]) -> (String, Vec<u8>) {
    let colon = line.iter().position(|b| *b == b':').unwrap_or_else(|| panic!("field {:?}", text(line)));
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    assert!(is_token(name), "field name {:?}", text(name));
    assert!(value.iter().all(|b| *b == b'\t' || (*b >= b' ' && *b != 0x7f)), "field value {:?}", text(value));
    (text(name), value.to_vec())
}

fn number(value: &[u8]) -> usize {
    assert!(!value.is_empty() && value.iter().all(u8::is_ascii_digit), "number {:?}", text(value));
    text(value).parse().expect("a length")
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|b| *b as char).collect()
}
