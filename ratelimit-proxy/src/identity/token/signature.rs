//! The cryptography of tokens: `ring`, which TLS brings along. The token library asks for it through its own
//! interface; of its two ready providers one would be a second C library in the process, the other has an open
//! advisory (RUSTSEC-2023-0071). Only verification: nothing here can sign.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{Error as Refused, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use ring::{hmac, signature as ring_signature};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: verifier,
    // For thumbprints of keys, which nobody asks for.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes the token library use it. A program that chose another one before keeps that.
pub(super) fn install() {
    let _chosen_before = PROVIDER.install_default();
}

struct Ring {
    algorithm: Algorithm,
    check: Check,
    key: DecodingKey,
}

#[derive(Clone, Copy)]
enum Check {
    Hmac(hmac::Algorithm),
    Rsa(&'static ring_signature::RsaParameters),
    Curve(&'static dyn ring_signature::VerificationAlgorithm),
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let (family, check) = match algorithm {
        Algorithm::HS256 => (AlgorithmFamily::Hmac, Check::Hmac(hmac::HMAC_SHA256)),
        Algorithm::HS384 => (AlgorithmFamily::Hmac, Check::Hmac(hmac::HMAC_SHA384)),
        Algorithm::HS512 => (AlgorithmFamily::Hmac, Check::Hmac(hmac::HMAC_SHA512)),
        Algorithm::RS256 => (AlgorithmFamily::Rsa, Check::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA256)),
        Algorithm::RS384 => (AlgorithmFamily::Rsa, Check::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA384)),
        Algorithm::RS512 => (AlgorithmFamily::Rsa, Check::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA512)),
        Algorithm::PS256 => (AlgorithmFamily::Rsa, Check::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA256)),
        Algorithm::PS384 => (AlgorithmFamily::Rsa, Check::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA384)),
        Algorithm::PS512 => (AlgorithmFamily::Rsa, Check::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA512)),
        Algorithm::ES256 => (AlgorithmFamily::Ec, Check::Curve(&ring_signature::ECDSA_P256_SHA256_FIXED)),
        Algorithm::ES384 => (AlgorithmFamily::Ec, Check::Curve(&ring_signature::ECDSA_P384_SHA384_FIXED)),
        Algorithm::EdDSA => (AlgorithmFamily::Ed, Check::Curve(&ring_signature::ED25519)),
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    // A public key must never be taken for a secret: whoever knows it could sign.
    if family != key.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(Ring { algorithm: *algorithm, check, key: key.clone() }))
}

impl Verifier<Vec<u8>> for Ring {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), Refused> {
        let refused = |_: ring::error::Unspecified| Refused::new();
        match (self.check, self.key.kind()) {
            (Check::Hmac(algorithm), DecodingKeyKind::SecretOrDer(secret)) => {
                hmac::verify(&hmac::Key::new(algorithm, secret), message, signature).map_err(refused)
            }
            (Check::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                ring_signature::RsaPublicKeyComponents { n, e }
                    .verify(parameters, message, signature)
                    .map_err(refused)
            }
            (Check::Rsa(parameters), DecodingKeyKind::SecretOrDer(der)) => {
                ring_signature::UnparsedPublicKey::new(parameters, der)
                    .verify(message, signature)
                    .map_err(refused)
            }
            (Check::Curve(algorithm), DecodingKeyKind::SecretOrDer(point)) => {
                ring_signature::UnparsedPublicKey::new(algorithm, point)
                    .verify(message, signature)
                    .map_err(refused)
            }
            _ => Err(Refused::new()),
        }
    }
}

impl JwtVerifier for Ring {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
