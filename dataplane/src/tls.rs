//! I/O: certificates of TLS listeners, read from a folder (`tls.crt`, `tls.key`, as a mounted Secret has them) and read
//! again when they change. A new certificate that is no good is reported, and the old one stays in use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// How often the files are looked at. Two small reads; a mounted Secret is a link that is switched, which file watchers
/// tell in ways that differ.
pub const LOOK: Duration = Duration::from_secs(2);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{}` holds no PEM certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("`{}` holds no PEM private key", path.display())]
    NoKey { path: PathBuf },
    #[error("the certificate and the key in `{}` do not make a pair: {reason}", folder.display())]
    NotAPair { folder: PathBuf, reason: String },
}

/// The certificate of one listener.
#[derive(Debug)]
pub struct Certificate {
    folder: PathBuf,
    current: ArcSwap<CertifiedKey>,
    /// What the files held when they were read last, good or not: a bad pair is reported once.
    seen: std::sync::Mutex<Files>,
}

/// What is in the two files.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files")
    }
}

impl Files {
    fn read(folder: &Path) -> Result<Files, CertificateError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|source| CertificateError::Read { path, source })
        };
        Ok(Files { certificate: read("tls.crt")?, key: read("tls.key")? })
    }

    fn parse(&self, folder: &Path) -> Result<CertifiedKey, CertificateError> {
        let path = || folder.join("tls.crt");
        let chain: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| CertificateError::NoCertificate { path: path() })?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| CertificateError::NoKey { path: folder.join("tls.key") })?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        CertifiedKey::from_der(chain, key, &provider)
            .map_err(|error| CertificateError::NotAPair { folder: folder.to_owned(), reason: error.to_string() })
    }
}

impl Certificate {
    /// Reads the files of a folder.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn load(folder: &Path) -> Result<Arc<Certificate>, CertificateError> {
        let files = Files::read(folder)?;
        let current = ArcSwap::from_pointee(files.parse(folder)?);
        Ok(Arc::new(Certificate { folder: folder.to_owned(), current, seen: std::sync::Mutex::new(files) }))
    }

    /// Looks at the files. `Ok(true)`: a new certificate is in use from the next handshake on.
    ///
    /// # Errors
    /// They changed to something that cannot be used, and were not reported yet; the old one stays.
    pub fn look(&self) -> Result<bool, CertificateError> {
        // Between two steps of a switch a file may be missing: the next look finds it.
        let Ok(files) = Files::read(&self.folder) else { return Ok(false) };
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *seen == files {
            return Ok(false);
        }
        let parsed = files.parse(&self.folder);
        if parsed.is_err() && Files::read(&self.folder).ok().as_ref() != Some(&files) {
            // They were switched between the two reads.
            return Ok(false);
        }
        *seen = files;
        self.current.store(Arc::new(parsed?));
        Ok(true)
    }

    /// What a listener with this certificate speaks: TLS 1.2 and 1.3, HTTP/1.1.
    pub fn server_config(self: &Arc<Certificate>) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default versions")
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// Looks at the files of all listeners again and again. Never returns.
pub async fn follow(certificates: &[Arc<Certificate>]) -> std::convert::Infallible {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        for certificate in certificates {
            let folder = certificate.folder().display();
            match certificate.look() {
                Ok(false) => {}
                Ok(true) => tracing::info!("the certificate in `{folder}` is new and in use"),
                Err(error) => tracing::error!("the certificate that was in use stays in use: {error}"),
            }
        }
    }
}
