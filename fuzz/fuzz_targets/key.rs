//! Different tuples have different bytes, and equal ones equal bytes.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ratelimit_core::{AsKey, KeyBuf};

#[derive(Arbitrary, Debug, PartialEq)]
enum Part {
    Bytes(Vec<u8>),
    Unsigned(u64),
    Signed(i64),
    Missing,
}

fn encoded(parts: &[Part]) -> Vec<u8> {
    let mut buffer = KeyBuf::new();
    for part in parts {
        match part {
            Part::Bytes(bytes) => bytes.encode(&mut buffer),
            Part::Unsigned(number) => number.encode(&mut buffer),
            Part::Signed(number) => number.encode(&mut buffer),
            Part::Missing => buffer.push_missing(),
        }
    }
    buffer.key().to_vec()
}

fuzz_target!(|pair: (Vec<Part>, Vec<Part>)| {
    assert_eq!(encoded(&pair.0) == encoded(&pair.1), pair.0 == pair.1);
});
