//! Encryption: the server's certificate and key, read once at the start.

use std::path::Path;

use anyhow::Context;
use pgwire::api::auth::sasl::scram::ScramServerAuth;
use pgwire::tokio::TlsAcceptor;
use pgwire::tokio::tokio_rustls::rustls::ServerConfig;
use pgwire::tokio::tokio_rustls::rustls::crypto::ring::default_provider;
use pgwire::tokio::tokio_rustls::rustls::pki_types::pem::PemObject;
use pgwire::tokio::tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What encrypts connections.
pub struct Tls {
    /// Takes up encrypted connections.
    pub acceptor: TlsAcceptor,
    /// The certificate as it was read: SCRAM can bind a login to it.
    certificate: Vec<u8>,
}

impl Tls {
    /// Reads the certificate (with those that vouch for it behind it) and its key, both PEM.
    pub fn read(certificate: &Path, key: &Path) -> anyhow::Result<Tls> {
        let unreadable = |path: &Path| format!("cannot read {}", path.display());
        let pem = std::fs::read(certificate).with_context(|| unreadable(certificate))?;
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().with_context(|| unreadable(certificate))?;
        let key = PrivateKeyDer::from_pem_file(key).with_context(|| unreadable(key))?;
        let config = ServerConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .with_context(|| format!("cannot use the certificate {}", certificate.display()))?;
        Ok(Tls { acceptor: TlsAcceptor::from(std::sync::Arc::new(config)), certificate: pem })
    }

    /// Checks logins over connections of this certificate; `None` if nothing can be bound to a certificate of its kind.
    pub fn binding(&self) -> Option<ScramServerAuth> {
        let mut auth = ScramServerAuth::new();
        auth.configure_certificate(&self.certificate).ok().map(|()| auth)
    }
}
