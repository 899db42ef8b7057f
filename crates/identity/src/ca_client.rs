//! The certificate authority over gRPC.

use std::time::Duration;

use parking_lot::Mutex;
use tonic::{Request, transport::Channel};
use tracing::{info, warn};
use tulle_model::SpiffeId;
use tulle_proto::ca::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};

use crate::{
    CaError, CertificateAuthority, SignFuture,
    control_tls::{self, ChannelConfig, Credentials},
};

/// How to reach and use a certificate authority.
#[derive(Clone, Debug)]
pub struct CaClientConfig {
    /// The server.
    pub channel: ChannelConfig,
    /// Who we are.
    pub credentials: Credentials,
    /// Limit for one request, connecting included. Default 10 s.
    pub deadline: Duration,
    /// Largest answer in bytes. Default 1 MiB.
    pub max_answer: usize,
}

impl CaClientConfig {
    /// The default limits.
    pub fn new(channel: ChannelConfig, credentials: Credentials) -> Self {
        Self {
            channel,
            credentials,
            deadline: Duration::from_secs(10),
            max_answer: 1 << 20,
        }
    }
}

/// A client of the service that signs certificates for workloads, on behalf of each workload of this node.
///
/// The trust roots of the channel are compared with their source at each request; when they changed, a new connection
/// is made with the new ones.
#[derive(Debug)]
pub struct CaClient {
    config: CaClientConfig,
    connected: Mutex<Connected>,
}

impl CaClient {
    /// Makes a client. It connects when first used.
    ///
    /// # Errors
    /// [`CaError::Channel`] when the address or the server name is unusable.
    pub fn new(config: CaClientConfig) -> Result<Self, CaError> {
        let channel = control_tls::channel(&config.channel)?;
        let connected = Mutex::new(Connected {
            roots: config.channel.root.read().ok(),
            channel,
        });
        Ok(Self { config, connected })
    }

    async fn request(
        &self,
        id: &SpiffeId,
        csr: String,
        validity: Duration,
    ) -> Result<Vec<String>, CaError> {
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(validity.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(on_behalf_of(id)),
        });
        self.config.credentials.apply(request.metadata_mut())?;
        request.set_timeout(self.config.deadline);
        let mut client = IstioCertificateServiceClient::new(self.channel()?)
            .max_decoding_message_size(self.config.max_answer);
        let answer = client.create_certificate(request).await.map_err(refused)?;
        Ok(answer.into_inner().cert_chain)
    }

    /// The current channel, or a new one when the roots changed.
    fn channel(&self) -> Result<Channel, CaError> {
        let mut connected = self.connected.lock();
        match self.config.channel.root.read() {
            Ok(roots) if connected.roots.as_ref() == Some(&roots) => {}
            Ok(roots) => {
                info!(address = %self.config.channel.address, "trust roots of the CA channel changed");
                *connected = Connected {
                    channel: control_tls::channel(&self.config.channel)?,
                    roots: Some(roots),
                };
            }
            // An open connection was verified with the old roots and is still good.
            Err(error) => warn!(%error, "cannot read the trust roots of the CA channel"),
        }
        Ok(connected.channel.clone())
    }
}

impl CertificateAuthority for CaClient {
    fn sign<'a>(&'a self, id: &'a SpiffeId, csr_pem: String, validity: Duration) -> SignFuture<'a> {
        Box::pin(async move {
            let deadline = self.config.deadline;
            tokio::time::timeout(deadline, self.request(id, csr_pem, validity))
                .await
                .unwrap_or(Err(CaError::Deadline(deadline)))
        })
    }
}

/// A channel and the roots it was made with, if they could be read.
#[derive(Debug)]
struct Connected {
    roots: Option<String>,
    channel: Channel,
}

/// Names the workload for which this node asks.
fn on_behalf_of(id: &SpiffeId) -> prost_types::Struct {
    let value = prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(id.to_string())),
    };
    prost_types::Struct {
        fields: [("ImpersonatedIdentity".to_owned(), value)].into(),
    }
}

fn refused(status: tonic::Status) -> CaError {
    CaError::Refused {
        code: status.code(),
        message: describe(&status),
    }
}

/// tonic hides why a connection failed in the sources of the status; that is what an operator needs.
fn describe(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
