//! Keys, tokens signed with them, and an issuer that serves the keys over HTTP. Shares no code with the proxy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use ring::{digest, hmac};
use serde_json::{Value, json};

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Now, in seconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A secret shared with an issuer.
pub const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// What signs.
pub enum Signer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl Signer {
    /// A new key on a curve.
    pub fn p256() -> Self {
        let random = SystemRandom::new();
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }

    pub fn p384() -> Self {
        let random = SystemRandom::new();
        let algorithm = &signature::ECDSA_P384_SHA384_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::P384(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }

    pub fn ed() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    /// RSA, made by the openssl command; one for all tests of a process.
    pub fn rsa() -> Self {
        static KEY: OnceLock<Vec<u8>> = OnceLock::new();
        let key = KEY.get_or_init(|| {
            let arguments = [
                "genpkey",
                "-quiet",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-outform",
                "DER",
            ];
            let made = Command::new("openssl").args(arguments).output().expect("the openssl command");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            made.stdout
        });
        // Which of the two it is depends on the version of the command.
        Self::Rsa(RsaKeyPair::from_pkcs8(key).or_else(|_| RsaKeyPair::from_der(key)).unwrap())
    }

    /// The name of its usual algorithm.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::P384(_) => "ES384",
            Self::Ed(_) => "EdDSA",
            Self::Secret(_) => "HS256",
        }
    }

    /// The public key as one of a set, without a name.
    pub fn jwk(&self) -> Value {
        match self {
            Self::Rsa(key) => {
                let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "n": b64(public.n), "e": b64(public.e)})
            }
            Self::P256(key) | Self::P384(key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if point.len() == 64 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)})
            }
            Self::Ed(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": b64(key.public_key())}),
            Self::Secret(secret) => json!({"kty": "oct", "k": b64(secret)}),
        }
    }

    /// The public key in PEM (SubjectPublicKeyInfo).
    pub fn pem(&self) -> String {
        let (prefix, key): (&[u8], &[u8]) = match self {
            Self::Ed(key) => (b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", key.public_key().as_ref()),
            Self::P256(key) => (
                b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00",
                key.public_key().as_ref(),
            ),
            Self::Rsa(key) => (
                // 2048 bits: the lengths are always the same.
                b"\x30\x82\x01\x22\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x03\x82\x01\x0f\x00",
                key.public().as_ref(),
            ),
            _ => panic!("not needed"),
        };
        let text = STANDARD.encode([prefix, key].concat());
        let lines: Vec<_> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signed = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, message, &mut signed).unwrap();
                signed
            }
            Self::P256(key) | Self::P384(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Secret(secret) => {
                let algorithm = match algorithm {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(algorithm, secret), message).as_ref().to_vec()
            }
        }
    }

    /// A token with that head and those claims.
    pub fn token_with(&self, head: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", b64(head.to_string()), b64(claims.to_string()));
        let signed = self.sign(head["alg"].as_str().unwrap_or_default(), message.as_bytes());
        format!("{message}.{}", b64(signed))
    }

    /// A token with those claims that holds for an hour.
    pub fn token(&self, id: Option<&str>, mut claims: Value) -> String {
        let fields = claims.as_object_mut().unwrap();
        fields.entry("exp").or_insert(json!(now() + 3600));
        let mut head = json!({"alg": self.algorithm(), "typ": "JWT"});
        if let Some(id) = id {
            head["kid"] = json!(id);
        }
        self.token_with(&head, &claims)
    }
}

/// A key set.
pub fn jwks(keys: &[(&str, &Signer)]) -> String {
    let keys: Vec<_> = keys
        .iter()
        .map(|(id, signer)| {
            let mut key = signer.jwk();
            key["kid"] = json!(id);
            key["use"] = json!("sig");
            key
        })
        .collect();
    json!({"keys": keys}).to_string()
}

/// SHA-256 of what stands for a certificate.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, certificate).as_ref().try_into().unwrap()
}

/// A file of its own, gone with the value.
pub struct TempFile(pub PathBuf);

impl TempFile {
    pub fn new(text: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ratelimit-token-{}-{number}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
    }
}

/// How an issuer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    Garbage,
    Failing,
    Silent,
    Huge,
    /// Its discovery is about another issuer.
    Foreign,
}

/// An issuer of tokens.
pub struct Issuer {
    pub address: SocketAddr,
    state: Arc<Mutex<(Mood, String)>>,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Issuer {
    /// Serves that key set.
    pub async fn start(keys: String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new((Mood::Well, keys)));
        let asked = Arc::new(AtomicUsize::new(0));
        let (shared, count) = (Arc::clone(&state), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (shared, count) = (Arc::clone(&shared), Arc::clone(&count));
                let serve = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (shared, count) = (Arc::clone(&shared), Arc::clone(&count));
                    async move {
                        let (mood, keys) = shared.lock().unwrap().clone();
                        let path = request.uri().path().to_owned();
                        if path == "/keys" {
                            count.fetch_add(1, Ordering::SeqCst);
                        }
                        let (status, body) = match mood {
                            Mood::Silent => {
                                tokio::time::sleep(Duration::from_secs(3600)).await;
                                (200, String::new())
                            }
                            Mood::Failing => (503, "busy".to_owned()),
                            Mood::Garbage => (200, "<html>".to_owned()),
                            Mood::Huge => (200, "x".repeat(3 << 20)),
                            Mood::Well | Mood::Foreign => match path.as_str() {
                                "/keys" => (200, keys),
                                "/.well-known/openid-configuration" => {
                                    let name = if mood == Mood::Foreign { "other" } else { "127.0.0.1" };
                                    let issuer = format!("http://{name}:{}", address.port());
                                    (200, json!({"issuer": issuer, "jwks_uri": format!("http://{address}/keys")}).to_string())
                                }
                                _ => (404, String::new()),
                            },
                        };
                        http::Response::builder().status(status).body(Full::new(bytes::Bytes::from(body)))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), serve),
                );
            }
        });
        Self { address, state, asked, task }
    }

    /// Its name.
    pub fn name(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn feels(&self, mood: Mood) {
        self.state.lock().unwrap().0 = mood;
    }

    pub fn serves(&self, keys: String) {
        self.state.lock().unwrap().1 = keys;
    }

    /// How often it was asked for its keys.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
