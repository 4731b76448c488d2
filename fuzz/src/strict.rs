//! A reader of HTTP/1.1 messages that shares nothing with the proxy's: RFC 9112, short and slow. Strict, it is what an
//! upstream may be; otherwise it forgives what the proxy may forgive (bare line feeds, empty lines before a request),
//! so that whatever the proxy takes for a request is one here too.

/// A message that is there in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Method and target and version, or version and status.
    pub line: [Vec<u8>; 3],
    pub head: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// How much is forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strict {
    Yes,
    No,
}

/// What was read.
pub enum Read {
    /// A message, and its length in bytes.
    Whole(Message, usize),
    /// So far all is well.
    More,
    Wrong(&'static str),
}

impl Message {
    /// All values of a field.
    pub fn fields(&self, name: &str) -> Vec<&[u8]> {
        self.head
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| &value[..])
            .collect()
    }
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// A line without its end, and its length with it.
fn line(bytes: &[u8], strict: Strict) -> Result<Option<(&[u8], usize)>, &'static str> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let text = &bytes[..end];
    let text = match text.strip_suffix(b"\r") {
        Some(text) => text,
        None if strict == Strict::No => text,
        None => return Err("a bare line feed"),
    };
    if text.contains(&b'\r') || text.contains(&0) {
        return Err("a bare carriage return, or a NUL");
    }
    Ok(Some((text, end + 1)))
}

fn number(digits: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(digits).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

type Head = ([Vec<u8>; 3], Vec<(Vec<u8>, Vec<u8>)>, usize);

fn head(bytes: &[u8], strict: Strict) -> Result<Option<Head>, &'static str> {
    let mut at = 0;
    let first = loop {
        let Some((text, length)) = line(&bytes[at..], strict)? else { return Ok(None) };
        at += length;
        if !text.is_empty() {
            break text;
        }
        if strict == Strict::Yes {
            return Err("an empty line before a request");
        }
    };
    let parts: Vec<&[u8]> = first.splitn(3, |byte| *byte == b' ').collect();
    let [one, two, three] = parts[..] else { return Err("a first line without three parts") };
    let mut fields = Vec::new();
    loop {
        let Some((text, length)) = line(&bytes[at..], strict)? else { return Ok(None) };
        at += length;
        if text.is_empty() {
            return Ok(Some(([one.to_vec(), two.to_vec(), three.to_vec()], fields, at)));
        }
        let Some(colon) = text.iter().position(|byte| *byte == b':') else {
            return Err("a field without a colon");
        };
        if !is_token(&text[..colon]) {
            return Err("a field without a name");
        }
        fields.push((text[..colon].to_vec(), text[colon + 1..].trim_ascii().to_vec()));
    }
}

/// A body in chunks: its bytes, and its length as it is written.
fn chunks(bytes: &[u8], strict: Strict) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some((text, length)) = line(&bytes[at..], strict)? else { return Ok(None) };
        at += length;
        let size = text.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let size = std::str::from_utf8(size).ok().filter(|size| !size.is_empty() && !size.starts_with('+'));
        let Some(size) = size.and_then(|size| usize::from_str_radix(size, 16).ok()) else {
            return Err("a chunk without a size");
        };
        if size == 0 {
            break;
        }
        let Some(data) = bytes.get(at..at.saturating_add(size)) else { return Ok(None) };
        body.extend_from_slice(data);
        at += size;
        let Some((end, length)) = line(&bytes[at..], strict)? else { return Ok(None) };
        if !end.is_empty() {
            return Err("a chunk that is longer than it says");
        }
        at += length;
    }
    loop {
        let Some((text, length)) = line(&bytes[at..], strict)? else { return Ok(None) };
        at += length;
        if text.is_empty() {
            return Ok(Some((body, at)));
        }
    }
}

fn body(message: &Message, bytes: &[u8], strict: Strict) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let codings = message.fields("transfer-encoding");
    let lengths = message.fields("content-length");
    if !codings.is_empty() {
        if codings.len() != 1 || !codings[0].eq_ignore_ascii_case(b"chunked") {
            return Err("another transfer coding");
        }
        if strict == Strict::Yes && !lengths.is_empty() {
            return Err("a length beside a transfer coding");
        }
        return chunks(bytes, strict);
    }
    let mut length = None;
    for value in lengths.iter().flat_map(|value| value.split(|byte| *byte == b',')) {
        let value = number(value.trim_ascii()).ok_or("a length that is none")?;
        if length.is_some_and(|length| length != value) {
            return Err("two lengths");
        }
        length = Some(value);
    }
    let length = length.unwrap_or(0);
    Ok(bytes.get(..length).map(|body| (body.to_vec(), length)))
}

fn message(
    bytes: &[u8],
    strict: Strict,
    framed: impl Fn(&Message) -> bool,
) -> Result<Option<(Message, usize)>, &'static str> {
    let Some((line, head, length)) = head(bytes, strict)? else { return Ok(None) };
    let mut message = Message { line, head, body: Vec::new() };
    if !framed(&message) {
        return Ok(Some((message, length)));
    }
    let Some((body, more)) = body(&message, &bytes[length..], strict)? else { return Ok(None) };
    message.body = body;
    Ok(Some((message, length + more)))
}

fn read(result: Result<Option<(Message, usize)>, &'static str>) -> Read {
    match result {
        Ok(Some((message, length))) => Read::Whole(message, length),
        Ok(None) => Read::More,
        Err(why) => Read::Wrong(why),
    }
}

/// The request at the front.
pub fn request(bytes: &[u8], strict: Strict) -> Read {
    match read(message(bytes, strict, |_| true)) {
        Read::Whole(request, _) if !is_token(&request.line[0]) => Read::Wrong("a method that is none"),
        Read::Whole(request, _) if !request.line[2].starts_with(b"HTTP/1.") => {
            Read::Wrong("no version of HTTP/1")
        }
        other => other,
    }
}

/// The response at the front, to a request of that method.
pub fn response(bytes: &[u8], method: &[u8]) -> Read {
    let framed = |message: &Message| {
        let status = &message.line[1];
        method != b"HEAD" && !status.starts_with(b"1") && status != b"204" && status != b"304"
    };
    match read(message(bytes, Strict::Yes, framed)) {
        Read::Whole(response, _) if response.line[1].len() != 3 || number(&response.line[1]).is_none() => {
            Read::Wrong("a status that is none")
        }
        Read::Whole(response, _) if !response.line[0].starts_with(b"HTTP/1.") => {
            Read::Wrong("another version")
        }
        other => other,
    }
}

/// All requests that can be read from the front on, up to the first that can not, and the first word of that one: who
/// says HEAD takes no body, whatever else is wrong.
pub fn requests(mut bytes: &[u8]) -> (Vec<Message>, &[u8]) {
    let mut all = Vec::new();
    while let Read::Whole(request, length) = request(bytes, Strict::No) {
        all.push(request);
        bytes = &bytes[length..];
    }
    (all, bytes.trim_ascii_start().split(|byte| *byte == b' ').next().unwrap_or_default())
}

/// The answers at the front to requests of those methods: how many there are that are final, and what is left.
pub fn responses<'a>(
    mut bytes: &'a [u8],
    asked: &[Message],
    next: &[u8],
    mut each: impl FnMut(&Message),
) -> (usize, &'a [u8], Option<&'static str>) {
    let mut answered = 0;
    while !bytes.is_empty() {
        let method: &[u8] = asked.get(answered).map_or(next, |request| &request.line[0]);
        match response(bytes, method) {
            Read::Whole(response, length) => {
                each(&response);
                answered += usize::from(!response.line[1].starts_with(b"1"));
                bytes = &bytes[length..];
            }
            Read::More => break,
            Read::Wrong(why) => return (answered, bytes, Some(why)),
        }
    }
    (answered, bytes, None)
}
