use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn bytes(key: impl AsKey) -> Vec<u8> {
    let mut buffer = KeyBuf::new();
    key.encode(&mut buffer);
    buffer.key().to_vec()
}

#[test]
fn neighbours_that_must_not_meet() {
    let keys = [
        bytes(("a", "bc")),
        bytes(("ab", "c")),
        bytes("abc"),
        bytes(("a", "b", "c")),
        bytes(("", "abc")),
        bytes(("abc", "")),
        bytes(None::<&str>),
        bytes(""),
        bytes(()),
        bytes(1u8),
        bytes(1i8),
        bytes("1"),
        bytes(IpAddr::from([1, 2, 3, 4])),
        bytes("1.2.3.4"),
        bytes("a|b"),
        bytes(("a", "b")),
        bytes("a\0b"),
        bytes("A"),
        bytes("a"),
    ];
    for (i, one) in keys.iter().enumerate() {
        for other in keys.iter().skip(i + 1) {
            assert_ne!(one, other);
        }
    }
}

#[test]
fn one_address_has_one_key_however_it_is_written() {
    let v4: IpAddr = "1.2.3.4".parse().unwrap();
    for text in ["::ffff:1.2.3.4", "::ffff:102:304", "0:0:0:0:0:ffff:0102:0304"] {
        assert_eq!(bytes(text.parse::<IpAddr>().unwrap()), bytes(v4), "{text}");
    }
    assert_ne!(bytes("2001:db8::1.2.3.4".parse::<IpAddr>().unwrap()), bytes(v4));
    assert_ne!(bytes("64:ff9b::1.2.3.4".parse::<IpAddr>().unwrap()), bytes(v4));
}

#[test]
fn what_is_lent_is_what_would_be_written() {
    for length in [0, 1, 2, 16, 127, 128, 129, 1000] {
        let text = "x".repeat(length);
        assert_eq!(text.lend(&mut None).to_vec(), bytes(&text), "{length}");
        assert_eq!(text.lend(&mut None), Key::from_canonical(&bytes(&text)));
        assert_eq!(Some(&text).lend(&mut None).to_vec(), bytes(&text));
    }
    assert!(().lend(&mut None).is_global() && !"".lend(&mut None).is_global());
    assert!(!None::<&str>.lend(&mut None).is_global());
}

proptest! {
    #[test]
    fn different_tuples_have_different_bytes(
        a in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..200)), 0..4),
        b in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..200)), 0..4),
    ) {
        let encode = |parts: &[Option<Vec<u8>>]| {
            let mut buffer = KeyBuf::new();
            parts.iter().for_each(|part| part.encode(&mut buffer));
            buffer
        };
        prop_assert_eq!(encode(&a) == encode(&b), a == b);
    }
}
