//! What is kept of a password: what SCRAM-SHA-256 needs to check it, in Postgres' form
//! `SCRAM-SHA-256$iterations:salt$stored key:server key`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramSecret, gen_salted_password};

const SCHEME: &str = "SCRAM-SHA-256$";
const SALT_BYTES: usize = 16;
const KEY_BYTES: usize = 32;

/// What is kept of a password. What is in that form already stays as it is, as in Postgres.
pub fn verifier(password: &str) -> String {
    if parse(password).is_some() {
        return password.to_owned();
    }
    let salt: [u8; SALT_BYTES] = rand::random();
    let salted = gen_salted_password(password, &salt, SCRAM_ITERATIONS);
    match ScramSecret::verifier_from_salted_password(salt.to_vec(), salted, SCRAM_ITERATIONS) {
        ScramSecret::Verifier { salt, iterations, stored_key, server_key } => {
            let [salt, stored, server] = [salt, stored_key, server_key].map(|bytes| BASE64.encode(bytes));
            format!("{SCHEME}{iterations}:{salt}${stored}:{server}")
        }
        ScramSecret::SaltedPassword { .. } => unreachable!("a verifier was made"),
    }
}

/// What checks the password of nobody: a stranger cannot tell it from one that is wrong. The salt is the same each time.
pub fn nobody(name: &str, seed: &[u8]) -> ScramSecret {
    let salt = gen_salted_password(name, seed, 1)[..SALT_BYTES].to_vec();
    let key = rand::random::<[u8; KEY_BYTES]>().to_vec();
    ScramSecret::Verifier { salt, iterations: SCRAM_ITERATIONS, stored_key: key.clone(), server_key: key }
}

/// What is kept of a password, read again.
pub fn parse(verifier: &str) -> Option<ScramSecret> {
    let (first, keys) = verifier.strip_prefix(SCHEME)?.split_once('$')?;
    let (iterations, salt) = first.split_once(':')?;
    let (stored, server) = keys.split_once(':')?;
    let [salt, stored_key, server_key] = [salt, stored, server].map(|text| BASE64.decode(text).ok());
    let (stored_key, server_key) = (stored_key?, server_key?);
    if stored_key.len() != KEY_BYTES || server_key.len() != KEY_BYTES {
        return None;
    }
    let iterations = iterations.parse().ok().filter(|&n: &usize| n > 0)?;
    Some(ScramSecret::Verifier { salt: salt?, iterations, stored_key, server_key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_hashed_and_hashes_the_rest() {
        // Of Postgres 15.
        let hashed = "SCRAM-SHA-256$4096:cTCaICqqBHIOhztM9aZAVQ==$\
                      Dk0yOKXFHoRHWdHJuYdZGlDpV4V7rI5Sc2a8cXWYeXI=:pTuCmBFGaOy5bXZpqjMFQ0jyVnKcRYAOw94Z0jtLVCs=";
        assert_eq!(verifier(hashed), hashed);
        let own = verifier("secret");
        assert!(own.starts_with("SCRAM-SHA-256$4096:"));
        assert_eq!(verifier(&own), own);
        assert_ne!(verifier("secret"), own);
    }

    #[test]
    fn nobody_has_one_salt_per_name() {
        let salt = |name| match nobody(name, b"seed") {
            ScramSecret::Verifier { salt, .. } => salt,
            ScramSecret::SaltedPassword { .. } => unreachable!(),
        };
        assert_eq!(salt("a"), salt("a"));
        assert_ne!(salt("a"), salt("b"));
    }
}
