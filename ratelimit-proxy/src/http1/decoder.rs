//! [`Decoder`]: a message's body, out of the bytes that came. It takes slices and copies nothing.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use httparse::Status;

use super::{MAX_FIELDS, Malformed};

/// Bytes that the lines about chunks may have together beyond what their sizes take. Nobody uses extensions.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// Bytes of trailers.
const MAX_TRAILERS: usize = 16 * 1024;

/// What is still to come of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// Nothing.
    Done,
    /// So many bytes, more than none.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Everything until the connection ends.
    UntilClose,
}

/// Where in the chunks the next byte is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    place: Place,
    extensions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before a chunk's size.
    Start,
    /// Within it.
    Size(u64),
    /// In the blanks behind it.
    Blank(u64),
    /// In an extension.
    Extension(u64),
    /// At the line feed behind it.
    SizeEnd(u64),
    /// In the data, with so much to come.
    Data(u64),
    /// Behind the data, before CR.
    DataEnd,
    /// And before LF.
    DataLineFeed,
    /// Behind the last chunk.
    Trailers,
}

impl Decoder {
    pub(crate) const fn length(length: u64) -> Self {
        if length == 0 { Self::Done } else { Self::Length(length) }
    }

    pub(crate) const fn chunked() -> Self {
        Self::Chunked(Chunks { place: Place::Start, extensions: 0 })
    }

    pub(crate) fn is_done(&self) -> bool {
        *self == Self::Done
    }

    /// Whether the body ends before the connection does.
    pub(crate) fn has_end(&self) -> bool {
        *self != Self::UntilClose
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Done => SizeHint::with_exact(0),
            Self::Length(left) => SizeHint::with_exact(*left),
            Self::Chunked(_) | Self::UntilClose => SizeHint::default(),
        }
    }

    /// Takes the next piece out of what came; `None` if more must come first, or nothing will.
    pub(crate) fn take(&mut self, inbox: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Malformed> {
        match self {
            Self::Done => Ok(None),
            Self::Length(left) => {
                let piece = take_up_to(inbox, left);
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(piece)
            }
            Self::UntilClose if inbox.is_empty() => Ok(None),
            Self::UntilClose => Ok(Some(Frame::data(inbox.split().freeze()))),
            Self::Chunked(chunks) => {
                let (frame, done) = chunks.take(inbox)?;
                if done {
                    *self = Self::Done;
                }
                Ok(frame)
            }
        }
    }

    /// The connection ended. Returns whether the body ends so.
    pub(crate) fn end(&mut self) -> bool {
        if *self == Self::UntilClose {
            *self = Self::Done;
        }
        self.is_done()
    }
}

/// Up to that many bytes, which are then that many less.
fn take_up_to(inbox: &mut BytesMut, left: &mut u64) -> Option<Frame<Bytes>> {
    if inbox.is_empty() {
        return None;
    }
    let here = inbox.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left = left.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
    Some(Frame::data(inbox.split_to(here).freeze()))
}

impl Chunks {
    /// The next piece, and whether the body is complete.
    fn take(&mut self, inbox: &mut BytesMut) -> Result<(Option<Frame<Bytes>>, bool), Malformed> {
        loop {
            match &mut self.place {
                Place::Data(left) => {
                    let piece = take_up_to(inbox, left);
                    if *left > 0 {
                        return Ok((piece, false));
                    }
                    self.place = Place::DataEnd;
                    // The usual end, at once, so that nobody has to ask for it again.
                    let done = inbox.starts_with(b"\r\n0\r\n\r\n");
                    if done {
                        inbox.advance(b"\r\n0\r\n\r\n".len());
                    }
                    return Ok((piece, done));
                }
                Place::Trailers => {
                    return Ok(match trailers(inbox)? {
                        None => (None, false),
                        Some(fields) if fields.is_empty() => (None, true),
                        Some(fields) => (Some(Frame::trailers(fields)), true),
                    });
                }
                place => {
                    let Some(byte) = inbox.first().copied() else { return Ok((None, false)) };
                    let next = step(*place, byte)?;
                    if matches!(next, Place::Blank(_) | Place::Extension(_)) {
                        self.extensions += 1;
                        if self.extensions > MAX_EXTENSIONS {
                            return Err(Malformed("chunks have too many extensions"));
                        }
                    }
                    self.place = next;
                    inbox.advance(1);
                }
            }
        }
    }
}

/// What one byte leads to, outside of data and trailers.
fn step(place: Place, byte: u8) -> Result<Place, Malformed> {
    let bad_size = Err(Malformed("the size of a chunk is malformed"));
    Ok(match (place, byte) {
        (Place::Start, _) => Place::Size(digit(0, byte)?),
        (Place::Size(size) | Place::Blank(size), b' ' | b'\t') => Place::Blank(size),
        (Place::Size(size) | Place::Blank(size), b';') => Place::Extension(size),
        (Place::Size(size) | Place::Blank(size) | Place::Extension(size), b'\r') => Place::SizeEnd(size),
        (Place::Size(size), _) => Place::Size(digit(size, byte)?),
        // Some take a bare LF for the end of the line, and would read on from there.
        (Place::Extension(_), b'\n') => return bad_size,
        (Place::Extension(size), _) => Place::Extension(size),
        (Place::SizeEnd(0), b'\n') => Place::Trailers,
        (Place::SizeEnd(size), b'\n') => Place::Data(size),
        (Place::DataEnd, b'\r') => Place::DataLineFeed,
        (Place::DataLineFeed, b'\n') => Place::Start,
        (Place::DataEnd | Place::DataLineFeed, _) => return Err(Malformed("a chunk is longer than it says")),
        (Place::Blank(_) | Place::SizeEnd(_) | Place::Data(_) | Place::Trailers, _) => return bad_size,
    })
}

fn digit(size: u64, byte: u8) -> Result<u64, Malformed> {
    let digit = char::from(byte).to_digit(16).ok_or(Malformed("the size of a chunk is no number"))?;
    let size = size.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit)));
    size.ok_or(Malformed("the size of a chunk is too large"))
}

/// Takes trailers, which may be none; `None` if they are not all there.
fn trailers(inbox: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    let mut fields = HeaderMap::new();
    if inbox.starts_with(b"\r\n") {
        inbox.advance(2);
        return Ok(Some(fields));
    }
    let mut space = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let length = match httparse::parse_headers(inbox, &mut space) {
        Ok(Status::Complete((length, _))) if length > MAX_TRAILERS => {
            return Err(Malformed("the trailers are too large"));
        }
        Ok(Status::Complete((length, parsed))) => {
            for field in parsed {
                let name = HeaderName::from_bytes(field.name.as_bytes());
                let value = HeaderValue::from_bytes(field.value);
                let (Ok(name), Ok(value)) = (name, value) else {
                    return Err(Malformed("the trailers are malformed"));
                };
                fields.append(name, value);
            }
            length
        }
        Ok(Status::Partial) if inbox.len() > MAX_TRAILERS => {
            return Err(Malformed("the trailers are too large"));
        }
        Ok(Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed("the trailers are malformed")),
    };
    // Where others see a line, or the end, is not left to how they take a bare LF.
    let lines = inbox.get(..length).unwrap_or_default();
    let bare = |pair: &[u8]| matches!(pair, [before, b'\n'] if *before != b'\r');
    if lines.starts_with(b"\n") || lines.windows(2).any(bare) {
        return Err(Malformed("the trailers have an invalid line end"));
    }
    inbox.advance(length);
    Ok(Some(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All pieces, whether it is complete, and what is left over.
    fn decode(mut decoder: Decoder, text: &str) -> Result<(String, bool, String), &'static str> {
        let mut inbox = BytesMut::from(text);
        let mut pieces = String::new();
        loop {
            match decoder.take(&mut inbox) {
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(data) => pieces += &format!("[{}]", std::str::from_utf8(&data).unwrap()),
                    Err(frame) => pieces += &format!("{:?}", frame.into_trailers().unwrap()),
                },
                Ok(None) => break,
                Err(malformed) => return Err(malformed.0),
            }
        }
        Ok((pieces, decoder.is_done(), String::from_utf8(inbox.to_vec()).unwrap()))
    }

    fn whole(pieces: &str, rest: &str) -> Result<(String, bool, String), &'static str> {
        Ok((pieces.to_owned(), true, rest.to_owned()))
    }

    fn partial(pieces: &str) -> Result<(String, bool, String), &'static str> {
        Ok((pieces.to_owned(), false, String::new()))
    }

    #[test]
    fn lengths() {
        assert_eq!(decode(Decoder::length(5), "hello"), whole("[hello]", ""));
        assert_eq!(decode(Decoder::length(5), "hello!"), whole("[hello]", "!"));
        assert_eq!(decode(Decoder::length(5), "hell"), partial("[hell]"));
        assert_eq!(decode(Decoder::length(0), "x"), whole("", "x"));
        assert_eq!(decode(Decoder::length(u64::MAX), "x"), partial("[x]"));
        let mut short = Decoder::length(1);
        assert!(!short.end() && !short.is_done());
    }

    #[test]
    fn until_the_end_of_the_connection() {
        let mut decoder = Decoder::UntilClose;
        let mut inbox = BytesMut::from("all");
        assert!(decoder.take(&mut inbox).unwrap().is_some());
        assert!(!decoder.is_done() && decoder.end() && decoder.is_done());
    }

    #[test]
    fn chunks() {
        let chunked = |text| decode(Decoder::chunked(), text);
        assert_eq!(chunked("3\r\nabc\r\n0\r\n\r\n"), whole("[abc]", ""));
        assert_eq!(chunked("3\r\nabc\r\n0\r\n\r\nHTTP"), whole("[abc]", "HTTP"));
        assert_eq!(chunked("0\r\n\r\n"), whole("", ""));
        assert_eq!(chunked("000\r\n\r\n"), whole("", ""));
        assert_eq!(
            chunked("A \t;x=y\r\n0123456789\r\n1;z\r\na\r\n0;end\r\n\r\n"),
            whole("[0123456789][a]", "")
        );
        assert_eq!(
            chunked("1\r\na\r\n0\r\nX-A:  b \r\nx-c:\r\n\r\nrest"),
            whole("[a]{\"x-a\": \"b\", \"x-c\": \"\"}", "rest")
        );
        assert_eq!(chunked("3\r\nab"), partial("[ab]"));
        assert_eq!(chunked("3\r\nabc\r\n"), partial("[abc]"));
        assert_eq!(chunked("3\r\nabc\r\n0\r\n"), partial("[abc]"));
    }

    #[test]
    fn chunks_that_others_would_read_differently() {
        for text in [
            "5\nhello\r\n",
            "0x5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            "-0\r\n\r\n",
            " 5\r\nhello\r\n",
            "\r\n",
            ";x\r\n\r\n",
            "5 5\r\nhello\r\n",
            "5;x\ny\r\nhello\r\n",
            "5\rhello\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello\rx",
            "10000000000000000\r\n",
            "0\r\nx: 1\n\r\n",
            "0\r\nx: 1\r\n\n",
            "0\r\nx 1\r\n\r\n",
            "0\r\nx: 1\r\n 2\r\n\r\n",
            "0\r\n\n",
            "0\r\n\0\r\n\r\n",
        ] {
            assert!(decode(Decoder::chunked(), text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_have_a_size() {
        let long = "x".repeat(20_000);
        assert!(decode(Decoder::chunked(), &format!("1;{long}")).is_err());
        assert!(decode(Decoder::chunked(), &"1;x\r\na\r\n".repeat(20_000)).is_err());
        assert!(decode(Decoder::chunked(), &format!("0\r\nx: {long}")).is_err());
        assert!(decode(Decoder::chunked(), &format!("0\r\nx: {long}\r\n\r\n")).is_err());
        let many: String = (0..=MAX_FIELDS).map(|n| format!("x{n}: 1\r\n")).collect();
        assert!(decode(Decoder::chunked(), &format!("0\r\n{many}\r\n")).is_err());
    }
}
