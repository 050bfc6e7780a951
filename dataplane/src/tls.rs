//! Certificates of TLS listeners: from a folder (I/O: `tls.crt`, `tls.key`, as a mounted Secret has them, read again when
//! they change), or given by whoever reads Secrets. A new certificate that is no good is reported, and the old one stays
//! in use; without any, handshakes fail.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// How often the files are looked at. Two small reads; a mounted Secret is a link that is switched, which file watchers
/// tell in ways that differ.
pub const LOOK: Duration = Duration::from_secs(2);

/// Names of the two files, and of the two entries of a Secret.
pub const CERTIFICATE: &str = "tls.crt";
pub const KEY: &str = "tls.key";

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{part} holds no PEM certificate")]
    NoCertificate { part: String },
    #[error("{part} holds no PEM private key")]
    NoKey { part: String },
    #[error("the certificate and the key in {place} do not make a pair: {reason}")]
    NotAPair { place: Place, reason: String },
}

/// Where a pair comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Folder(PathBuf),
    Secret { namespace: String, name: String },
}

impl Place {
    fn part(&self, name: &str) -> String {
        match self {
            Place::Folder(folder) => format!("`{}`", folder.join(name).display()),
            Place::Secret { .. } => format!("`{name}` of {self}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Folder(folder) => write!(f, "`{}`", folder.display()),
            Place::Secret { namespace, name } => write!(f, "Secret `{namespace}/{name}`"),
        }
    }
}

/// The texts of a pair.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pem {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem")
    }
}

impl Pem {
    fn read(folder: &Path) -> Result<Pem, CertificateError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|source| CertificateError::Read { path, source })
        };
        Ok(Pem { certificate: read(CERTIFICATE)?, key: read(KEY)? })
    }

    /// Whether a listener can use it.
    ///
    /// # Errors
    /// See [`CertificateError`]. `place`: for its text.
    pub fn check(&self, place: &Place) -> Result<(), CertificateError> {
        self.parse(place).map(drop)
    }

    fn parse(&self, place: &Place) -> Result<CertifiedKey, CertificateError> {
        let chain: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| CertificateError::NoCertificate { part: place.part(CERTIFICATE) })?;
        let key =
            PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| CertificateError::NoKey { part: place.part(KEY) })?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        CertifiedKey::from_der(chain, key, &provider)
            .map_err(|error| CertificateError::NotAPair { place: place.clone(), reason: error.to_string() })
    }
}

/// The certificate of one listener.
#[derive(Debug)]
pub struct Certificate {
    place: Place,
    current: ArcSwapOption<CertifiedKey>,
    /// What was given last, good or not: a bad pair is reported once.
    seen: Mutex<Pem>,
}

impl Certificate {
    /// Reads the files of a folder.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn load(folder: &Path) -> Result<Arc<Certificate>, CertificateError> {
        let certificate = Certificate::none(Place::Folder(folder.to_owned()));
        certificate.take(Pem::read(folder)?)?;
        Ok(certificate)
    }

    /// None yet: [`Certificate::take`] gives it one.
    pub fn none(place: Place) -> Arc<Certificate> {
        Arc::new(Certificate { place, current: ArcSwapOption::empty(), seen: Mutex::default() })
    }

    /// Looks at the files of its folder. `Ok(true)`: a new certificate is in use from the next handshake on.
    ///
    /// # Errors
    /// They changed to something that cannot be used, and were not reported yet; the old one stays.
    pub fn look(&self) -> Result<bool, CertificateError> {
        let Place::Folder(folder) = &self.place else { return Ok(false) };
        // Between two steps of a switch a file may be missing: the next look finds it.
        let Ok(pem) = Pem::read(folder) else { return Ok(false) };
        let is_bad = *self.seen() != pem && pem.check(&self.place).is_err();
        if is_bad && Pem::read(folder).ok().as_ref() != Some(&pem) {
            // They were switched between the two reads.
            return Ok(false);
        }
        self.take(pem)
    }

    /// Uses this pair. `Ok(true)`: it is new, and in use from the next handshake on.
    ///
    /// # Errors
    /// It cannot be used, and was not reported yet; the old one stays.
    pub fn take(&self, pem: Pem) -> Result<bool, CertificateError> {
        let mut seen = self.seen();
        if *seen == pem {
            return Ok(false);
        }
        let parsed = pem.parse(&self.place);
        *seen = pem;
        self.current.store(Some(Arc::new(parsed?)));
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

    pub fn place(&self) -> &Place {
        &self.place
    }

    fn seen(&self) -> MutexGuard<'_, Pem> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

/// Looks at the files of all listeners again and again. Never returns.
pub async fn follow(certificates: &[Arc<Certificate>]) -> std::convert::Infallible {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        for certificate in certificates {
            tell(certificate.look(), &certificate.place);
        }
    }
}

/// Logs what came of a new pair for a listener that had one.
pub fn tell(taken: Result<bool, CertificateError>, place: &Place) {
    match taken {
        Ok(false) => {}
        Ok(true) => tracing::info!("the certificate in {place} is new and in use"),
        Err(error) => tracing::error!("the certificate that was in use stays in use: {error}"),
    }
}
