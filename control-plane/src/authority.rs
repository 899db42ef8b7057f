//! The certificate authority as a gRPC service: who may have which certificate, for how long, how often.

mod limit;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use prost_types::value::Kind;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tracing::{info, warn};
use tulle_identity::control_tls::Standing;
use tulle_model::SpiffeId;
use tulle_proto::ca::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::IstioCertificateService,
};

use crate::{
    access::{self, Account, Refusal},
    callers::{Callers, status},
    metrics::Metrics,
    succession::Signer,
};
pub use limit::{LimiterConfig, Limiters};

/// How long certificates live, and how many are signed.
#[derive(Clone, Debug)]
pub struct AuthorityConfig {
    /// When the request does not say. Default 24 h.
    pub default_ttl: Duration,
    /// A request for more is refused. Default 24 h.
    pub max_ttl: Duration,
    /// Pace per node.
    pub limit: LimiterConfig,
}

impl Default for AuthorityConfig {
    fn default() -> Self {
        Self {
            default_ttl: Duration::from_secs(24 * 3600),
            max_ttl: Duration::from_secs(24 * 3600),
            limit: LimiterConfig::default(),
        }
    }
}

/// Signs certificates for those who are entitled to them.
pub struct Authority {
    signer: Signer,
    callers: Arc<Callers>,
    config: AuthorityConfig,
    limiters: Mutex<Limiters>,
    metrics: Arc<Metrics>,
}

impl Authority {
    /// An authority that signs with whatever is in use.
    pub fn new(
        signer: Signer,
        callers: Arc<Callers>,
        config: AuthorityConfig,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            limiters: Mutex::new(Limiters::new(&config.limit)),
            signer,
            callers,
            config,
            metrics,
        }
    }

    async fn sign(&self, request: Request<IstioCertificateRequest>) -> Result<Vec<String>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let entitled = self.callers.verify(&metadata).await.and_then(|caller| {
            let requested = impersonated(&request)?;
            let index = self.callers.index().read();
            access::certificate(self.callers.mesh(), index.objects(), &caller, requested)
                .map(|(id, account)| (id, account, caller))
        });
        let (id, account, caller) = entitled.map_err(|refusal| {
            warn!(reason = %refusal, requested = ?loggable(&request), "certificate refused");
            self.metrics.certificate_refused(refusal.label());
            status(&refusal)
        })?;
        if !self.limiters.lock().allows(&account, Instant::now()) {
            warn!(?account, %id, "too many certificate requests");
            self.metrics.certificate_refused("rate");
            return Err(Status::resource_exhausted("too many requests"));
        }
        // A pod asks once in hours, and needs no connection until then.
        if let (Account::Node(_), Some(connection)) = (&account, extensions.get::<Standing>()) {
            connection.prove();
        }
        let ttl = self.ttl(request.validity_duration)?;
        let chain = self.issue(&request.csr, &id, ttl)?;
        info!(%id, ?account, pod = %caller.pod, ttl_s = ttl.as_secs(), "certificate issued");
        self.metrics.certificate_issued();
        Ok(chain)
    }

    fn ttl(&self, seconds: i64) -> Result<Duration, Status> {
        let ttl = match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
            Ok(_) | Err(_) => self.config.default_ttl,
        };
        if ttl > self.config.max_ttl {
            self.metrics.certificate_refused("ttl");
            let max = self.config.max_ttl.as_secs();
            return Err(Status::invalid_argument(format!(
                "a certificate lives at most {max} seconds"
            )));
        }
        Ok(ttl)
    }

    fn issue(&self, csr: &str, id: &SpiffeId, ttl: Duration) -> Result<Vec<String>, Status> {
        let ca = Arc::clone(&self.signer.borrow());
        let chain = ca.issue(csr, id, ttl, SystemTime::now());
        chain.map_err(|error| {
            warn!(%id, error = %error, "certificate not issued");
            if error.is_bad_request() {
                self.metrics.certificate_refused("request");
                Status::invalid_argument("the signing request cannot be used")
            } else {
                self.metrics.certificate_refused("signing");
                Status::internal("signing failed")
            }
        })
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Authority {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let cert_chain = self.sign(request).await?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// The identity that is asked for on behalf of somebody else.
fn impersonated(request: &IstioCertificateRequest) -> Result<Option<&str>, Refusal> {
    let metadata = request.metadata.as_ref();
    let Some(value) = metadata.and_then(|metadata| metadata.fields.get(IMPERSONATED)) else {
        return Ok(None);
    };
    match &value.kind {
        Some(Kind::StringValue(id)) => Ok(Some(id)),
        // Not to be taken for a request without one, which gets something else.
        _ => Err(Refusal::Identity(tulle_model::InvalidSpiffeId::Scheme)),
    }
}

/// The beginning of what was asked for: it may come from anybody.
fn loggable(request: &IstioCertificateRequest) -> Option<String> {
    let requested = impersonated(request).ok().flatten()?;
    Some(requested.chars().take(MAX_LOGGED).collect())
}

/// Longer than any identity is in practice.
const MAX_LOGGED: usize = 256;
const IMPERSONATED: &str = "ImpersonatedIdentity";
