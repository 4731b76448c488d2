//! [`KeySet`]: the keys that tokens are verified with, and what they may be used for. Which algorithms a key
//! takes follows from its type, never from the token alone: a public key is no secret, and `none` is no key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, Header, Validation};
use serde::Deserialize;
use serde_json::Value;

/// Most keys of a source that are looked at.
const MOST_KEYS: usize = 100;
/// Most keys that are tried for a token that does not say which it was signed with.
const MOST_TRIED: usize = 4;
/// Fewest bytes of a shared secret (RFC 7518 §3.2).
const LEAST_SECRET: usize = 32;

/// The keys of a source, at one time.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// Another number for each set of a verifier.
    pub(super) generation: u64,
}

#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    pub(super) decoding: DecodingKey,
    pub(super) validation: Validation,
}

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// A shared secret of fewer than 32 bytes: it can be guessed (RFC 7518 §3.2).
    ShortSecret,
    /// No public key of RSA, P-256, P-384 or Ed25519 in PEM.
    NotAPublicKey,
    /// No JSON Web Key Set.
    NotAKeySet,
    /// A key set without a key to verify signatures with.
    NoKey,
    /// It can't be read.
    Unreadable(String),
}

/// What is asked of the claims that a token was made for.
pub(super) struct Asked<'c> {
    pub(super) issuer: Option<&'c str>,
    pub(super) audience: &'c [String],
}

impl Asked<'_> {
    fn validation(&self, algorithms: &[Algorithm]) -> Validation {
        let mut validation = Validation {
            algorithms: algorithms.to_vec(),
            // Times are judged at every request, of cached tokens too: see `Claims`.
            validate_exp: false,
            validate_nbf: false,
            validate_aud: !self.audience.is_empty(),
            ..Validation::default()
        };
        validation.required_spec_claims.clear();
        if validation.validate_aud {
            validation.set_audience(self.audience);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        if let Some(issuer) = self.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        validation
    }

    fn key(&self, id: Option<String>, decoding: DecodingKey, algorithms: &[Algorithm]) -> Key {
        Key { id, decoding, validation: self.validation(algorithms) }
    }
}

impl KeySet {
    /// A shared secret.
    pub(super) fn secret(secret: &[u8], asked: &Asked<'_>) -> Result<Vec<Key>, KeyError> {
        if secret.len() < LEAST_SECRET {
            return Err(KeyError::ShortSecret);
        }
        Ok(vec![asked.key(None, DecodingKey::from_secret(secret), AlgorithmFamily::Hmac.algorithms())])
    }

    /// A public key in PEM.
    pub(super) fn pem(pem: &[u8], asked: &Asked<'_>) -> Result<Vec<Key>, KeyError> {
        // The library would take private keys too, and a private key has no business here.
        let marker: &[u8] = b"PUBLIC KEY-----";
        if !pem.windows(marker.len()).any(|window| window == marker) {
            return Err(KeyError::NotAPublicKey);
        }
        let key = DecodingKey::from_rsa_pem(pem)
            .or_else(|_| DecodingKey::from_ec_pem(pem))
            .or_else(|_| DecodingKey::from_ed_pem(pem))
            .map_err(|_| KeyError::NotAPublicKey)?;
        let algorithms = algorithms(&key).ok_or(KeyError::NotAPublicKey)?;
        Ok(vec![asked.key(None, key, algorithms)])
    }

    /// The keys of a JSON Web Key Set that verify signatures; others, and those nobody here understands, are
    /// left out (RFC 7517 §5).
    pub(super) fn jwks(document: &[u8], asked: &Asked<'_>) -> Result<Vec<Key>, KeyError> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(document).map_err(|_| KeyError::NotAKeySet)?;
        let keys = document.keys.into_iter().take(MOST_KEYS).filter_map(|key| jwk(key, asked));
        let keys: Vec<_> = keys.collect();
        if keys.is_empty() { Err(KeyError::NoKey) } else { Ok(keys) }
    }

    pub(super) fn new(keys: Vec<Key>, generation: u64) -> Self {
        Self { keys, generation }
    }

    /// Whether a token's key is one of these, as far as its head says.
    pub(super) fn knows(&self, header: &Header) -> bool {
        self.named(header).next().is_some()
    }

    /// The keys that a token may have been signed with.
    pub(super) fn fitting<'k>(&'k self, header: &'k Header) -> impl Iterator<Item = &'k Key> {
        self.named(header).filter(|key| key.validation.algorithms.contains(&header.alg)).take(MOST_TRIED)
    }

    /// A key without a name may be any.
    fn named<'k>(&'k self, header: &'k Header) -> impl Iterator<Item = &'k Key> {
        self.keys.iter().filter(|key| match (&key.id, &header.kid) {
            (Some(id), Some(wanted)) => id == wanted,
            _ => true,
        })
    }
}

/// One key of a set (RFC 7517, RFC 7518 §6, RFC 8037).
fn jwk(key: Value, asked: &Asked<'_>) -> Option<Key> {
    #[derive(Deserialize)]
    struct Jwk {
        kty: String,
        #[serde(rename = "use")]
        usage: Option<String>,
        key_ops: Option<Vec<String>>,
        alg: Option<String>,
        kid: Option<String>,
        crv: Option<String>,
        n: Option<String>,
        e: Option<String>,
        x: Option<String>,
        y: Option<String>,
    }
    let key: Jwk = serde_json::from_value(key).ok()?;
    if key.usage.is_some_and(|usage| usage != "sig") {
        return None;
    }
    if key.key_ops.is_some_and(|uses| !uses.iter().any(|one| one == "verify")) {
        return None;
    }
    let bytes = |part: &Option<String>| URL_SAFE_NO_PAD.decode(part.as_ref()?).ok();
    let decoding = match (key.kty.as_str(), key.crv.as_deref()) {
        ("RSA", None) => {
            let (modulus, exponent) = (bytes(&key.n)?, bytes(&key.e)?);
            // Some issuers write the sign's byte along.
            let start = modulus.iter().take_while(|byte| **byte == 0).count();
            DecodingKey::from_rsa_raw_components(modulus.get(start..)?, &exponent)
        }
        ("EC", Some("P-256" | "P-384")) => {
            DecodingKey::from_ec_der(&[&[4][..], &bytes(&key.x)?, &bytes(&key.y)?].concat())
        }
        ("OKP", Some("Ed25519")) => DecodingKey::from_ed_der(&bytes(&key.x)?),
        // Also "oct": a secret that is published, or handed about in files of public keys, is none.
        _ => return None,
    };
    let possible = algorithms(&decoding)?;
    match key.alg {
        None => Some(asked.key(key.kid, decoding, possible)),
        Some(name) => {
            let only: Algorithm = name.parse().ok()?;
            possible.contains(&only).then(|| asked.key(key.kid, decoding, &[only]))
        }
    }
}

/// What a public key can verify; `None` if it has the wrong size.
fn algorithms(key: &DecodingKey) -> Option<&'static [Algorithm]> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let size = match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
    };
    match (key.family(), size) {
        // Fewer bits are refused by the verification anyway.
        (AlgorithmFamily::Rsa, 256..) => Some(&[RS256, RS384, RS512, PS256, PS384, PS512]),
        (AlgorithmFamily::Ec, 65) => Some(&[ES256]),
        (AlgorithmFamily::Ec, 97) => Some(&[ES384]),
        (AlgorithmFamily::Ed, 32) => Some(&[EdDSA]),
        _ => None,
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShortSecret => write!(f, "the secret has fewer than {LEAST_SECRET} bytes"),
            Self::NotAPublicKey => f.write_str("no public key in PEM (RSA, P-256, P-384 or Ed25519)"),
            Self::NotAKeySet => f.write_str("no JSON Web Key Set"),
            Self::NoKey => f.write_str("the key set has no public key for signatures"),
            Self::Unreadable(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for KeyError {}
