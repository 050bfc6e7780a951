//! Where calls go and with which credential: the provider, its address and what authenticates us, judged together,
//! because a credential may not go everywhere. From an account, or from what a deployment says itself.

use tollgate_crds::{CancelBilling, SecretKeyRef};

use super::credential::{self, Credentials};
use super::endpoint;
use super::gateway::Gateway;
use super::input::Input;
use super::provider::{self, Stated};
use super::report::{Report, Subject};
use crate::catalogue::Provider;
use crate::finding::Reason;
use crate::model::{self, AuthStyle, CredentialUse, Endpoint, Name};

/// Why an object is not used as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Something in it cannot be read; what it said before may still hold.
    Broken,
    /// Somebody who may say so took away what it needs: a Secret, a grant, a host. What it said before is over too.
    Withdrawn,
}

/// Everything a call needs to know about its destination, but for the model.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    pub provider: &'static Provider,
    pub endpoint: Endpoint,
    pub api_version: Option<Name>,
    pub headers: Vec<(Name, Name)>,
    pub credentials: Vec<CredentialUse>,
    pub account: Option<model::Account>,
    pub cancel_stops_billing: bool,
}

/// A credential that a resource lists.
#[derive(Debug)]
pub(super) struct Listed<'a> {
    pub reference: &'a SecretKeyRef,
    pub weight: u32,
    /// Where it is written.
    pub field: String,
}

/// What all of them are judged by, and where values go.
pub(super) struct Judge<'j, 'a> {
    pub input: &'j Input<'a>,
    pub gateway: &'j Gateway<'a>,
    pub credentials: &'j mut Credentials,
    pub report: &'j mut Report,
}

impl Upstream {
    /// What a resource states goes before what was known.
    pub fn with(mut self, stated: Option<CancelBilling>) -> Upstream {
        if let Some(stated) = stated {
            self.cancel_stops_billing = stated == CancelBilling::Stops;
        }
        self
    }
}

impl Judge<'_, '_> {
    /// An upstream of `provider`, at `stated.endpoint` or where the provider usually is.
    pub fn upstream(
        &mut self,
        provider: &'static Provider,
        stated: Stated,
        listed: &[Listed<'_>],
        credential_field: &str,
        subject: Subject<'_>,
    ) -> Result<Upstream, Refusal> {
        let is_own_address = stated.endpoint.is_some();
        let Some(endpoint) = stated.endpoint.or_else(|| provider::usual_endpoint(provider, self.input)) else {
            let message = format!("provider `{}` has no address of its own", provider.id);
            self.report.error(subject, Reason::EndpointMissing, "spec.endpoint.baseURL", message).hint =
                provider.note.to_owned();
            return Err(Refusal::Broken);
        };
        let is_mock = !is_own_address && provider.base_url.is_none();
        if !is_mock {
            self.check_host(&endpoint.host, subject)?;
        }
        let credentials = self.read_all(provider, &endpoint, listed, subject);
        let is_needed = !listed.is_empty() || !(provider.credential_is_optional || is_own_address);
        if credentials.is_empty() && is_needed {
            // Those that are listed have their own findings.
            if listed.is_empty() {
                let message = format!("provider `{}` wants a credential", provider.id);
                self.report.error(subject, Reason::NotFound, credential_field, message).hint =
                    "name the entry of a Secret, as in {secretRef: {name: provider, key: api-key}}".to_owned();
                return Err(Refusal::Broken);
            }
            return Err(Refusal::Withdrawn);
        }
        let Stated { endpoint: _, api_version, headers } = stated;
        let cancel_stops_billing = provider.cancel_stops_billing;
        Ok(Upstream { provider, endpoint, api_version, headers, credentials, account: None, cancel_stops_billing })
    }

    /// # Errors
    /// The host may not be called.
    pub fn check_host(&mut self, host: &str, subject: Subject<'_>) -> Result<(), Refusal> {
        let field = "spec.endpoint.baseURL";
        if let Some(why) = endpoint::refusal(host, self.input.mode) {
            self.report.error(subject, Reason::HostNotAllowed, field, format!("`{host}`: {why}"));
            return Err(Refusal::Withdrawn);
        }
        let model::Gateway { namespace, name, allowed_hosts, .. } = &self.gateway.compiled;
        if !endpoint::is_listed(allowed_hosts.iter().map(|pattern| &**pattern), host) {
            let message = format!("LLMGateway `{namespace}/{name}` does not allow calls to `{host}`");
            self.report.error(subject, Reason::HostNotAllowed, field, message).hint =
                "its owner can allow the host in spec.egress.allowedHosts".to_owned();
            return Err(Refusal::Withdrawn);
        }
        Ok(())
    }

    fn read_all(
        &mut self,
        provider: &'static Provider,
        endpoint: &Endpoint,
        listed: &[Listed<'_>],
        subject: Subject<'_>,
    ) -> Vec<CredentialUse> {
        if provider.auth == AuthStyle::None {
            if let Some(Listed { field, .. }) = listed.first() {
                let message = format!("provider `{}` takes no credential; none is sent", provider.id);
                self.report.warning(subject, Reason::InvalidValue, field.as_str(), message);
            }
            return Vec::new();
        }
        let mut credentials = Vec::with_capacity(listed.len());
        for Listed { reference, weight, field } in listed {
            let read = credential::read_for_header(self.input, reference, subject, field, self.report);
            let Some((secret, value)) = read else { continue };
            let host = &endpoint.host;
            if !credential::may_go_to(self.input.mode, provider, secret, host) {
                let message = format!("Secret `{}` may not be sent to host `{host}`", reference.name);
                self.report.error(subject, Reason::CredentialHostNotAllowed, field.as_str(), message).hint =
                    format!("whoever owns the Secret can annotate it with tollgate.dev/hosts: {host}");
                continue;
            }
            let id = credential::id(subject.namespace, reference);
            if let Err(message) = self.credentials.insert(self.input.mode, id.clone(), value) {
                self.report.error(subject, Reason::InvalidValue, field.as_str(), message);
                continue;
            }
            credentials.push(CredentialUse { id, weight: *weight });
        }
        credentials
    }

    /// Which of the credentials that an upstream had may still be used.
    pub fn still_usable(
        &mut self,
        provider: &Provider,
        host: &str,
        credentials: &[CredentialUse],
    ) -> Vec<CredentialUse> {
        let mut usable = Vec::with_capacity(credentials.len());
        for credential in credentials {
            let mut parts = credential.id.splitn(3, '/');
            let (Some(namespace), Some(name), Some(key)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let Some(secret) = self.input.secrets.get(namespace, name) else { continue };
            let value = secret.data.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
            let Some(value) = value else { continue };
            if credential::may_go_to(self.input.mode, provider, secret, host) {
                let inserted = self.credentials.insert(self.input.mode, credential.id.clone(), value.into());
                usable.extend(inserted.is_ok().then(|| credential.clone()));
            }
        }
        usable
    }
}
