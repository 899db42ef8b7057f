//! Protobuf to model.
//!
//! The bytes come from a control plane that may be newer, foreign or broken. Whatever cannot be represented exactly
//! rejects the resource, since a workload or policy that was half understood could be reached or enforced in a way
//! that nobody asked for. Two deliberate exceptions: an unknown [visibility](tulle_model::Visibility) reads as
//! public, as upstream does, and an unreadable condition inside a policy marks its match as
//! [malformed](tulle_model::Match::malformed), which never widens access.
//!
//! Fields that the schema does not have cannot be seen here: a condition of some future kind would be ignored. New
//! kinds of condition therefore have to travel in the `extensions` of a match, which do mark it.

use prost::Message;
use tulle_model::{Authorization, NetworkAddress};
use tulle_proto::{mesh, security, workload as wire};

use crate::{Address, Configuration};

mod authorization;
mod authorizer;
mod configuration;
mod gateway;
mod limit;
mod service;
mod telemetry;
mod token;
mod traffic;
mod workload;

/// Reads an `istio.workload.Address` message.
///
/// # Errors
/// When the bytes are not such a message, or one that we do not fully understand.
pub fn address(bytes: &[u8]) -> Result<Address, InvalidResource> {
    match decode_address(bytes)? {
        wire::address::Type::Workload(workload) => Ok(workload::workload(workload)?.into()),
        wire::address::Type::Service(service) => Ok(service::service(service)?.into()),
    }
}

/// Reads an `istio.security.Authorization` message.
///
/// # Errors
/// When the bytes are not such a message, or its scope or action is unknown.
pub fn authorization(bytes: &[u8]) -> Result<Authorization, InvalidResource> {
    authorization::authorization(security::Authorization::decode(bytes)?)
}

/// Reads a `tulle.mesh.v1.Configuration` message.
///
/// # Errors
/// When the bytes are not such a message, or one that we do not fully understand.
pub fn configuration(bytes: &[u8]) -> Result<Configuration, InvalidResource> {
    let message = mesh::Configuration::decode(bytes)?;
    let kind = message.kind.ok_or(InvalidResource::Missing("kind"))?;
    Ok(match kind {
        mesh::configuration::Kind::Routes(value) => {
            Configuration::Routes(configuration::routes(value)?.into())
        }
        mesh::configuration::Kind::Traffic(value) => {
            Configuration::Traffic(traffic::rule(value)?.into())
        }
        mesh::configuration::Kind::Tokens(value) => {
            Configuration::Tokens(token::policy(value)?.into())
        }
        mesh::configuration::Kind::Authorizer(value) => {
            Configuration::Authorizer(authorizer::authorizer(value)?.into())
        }
        mesh::configuration::Kind::Telemetry(value) => {
            Configuration::Telemetry(telemetry::telemetry(value)?.into())
        }
        mesh::configuration::Kind::Limits(value) => {
            Configuration::Limits(limit::policy(value)?.into())
        }
        mesh::configuration::Kind::Membership(value) => {
            Configuration::Membership(traffic::membership(value)?.into())
        }
    })
}

/// The network addresses that a message claims, as far as they can be read, even if it is otherwise invalid.
pub fn claimed_addresses(bytes: &[u8]) -> Vec<NetworkAddress> {
    match decode_address(bytes) {
        Ok(wire::address::Type::Workload(workload)) => workload::claimed_addresses(&workload),
        Ok(wire::address::Type::Service(service)) => service::claimed_addresses(&service),
        Err(_) => Vec::new(),
    }
}

fn decode_address(bytes: &[u8]) -> Result<wire::address::Type, InvalidResource> {
    wire::Address::decode(bytes)?
        .r#type
        .ok_or(InvalidResource::Missing("workload or service"))
}

/// Why a resource was rejected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidResource {
    /// Not a message of this type.
    #[error("not valid protobuf")]
    Protobuf(#[from] prost::DecodeError),
    /// A required field is absent.
    #[error("no {0}")]
    Missing(&'static str),
    /// An enum value that we do not know, or do not support.
    #[error("unsupported {field} {value}")]
    Enum {
        /// Which field.
        field: &'static str,
        /// The number received.
        value: i32,
    },
    /// An address that is neither 4 nor 16 bytes, or a prefix longer than its address.
    #[error("{field} is not an IP address or range")]
    Address {
        /// Which field.
        field: &'static str,
    },
    /// A port above 65535.
    #[error("{field} {value} is not a port")]
    Port {
        /// Which field.
        field: &'static str,
        /// The number received.
        value: u32,
    },
    /// A key that is not `<namespace>/<name>`.
    #[error("{field} is not <namespace>/<name>")]
    Key {
        /// Which field.
        field: &'static str,
    },
    /// A share above 100.
    #[error("{field} {value} is not a share in percent")]
    Percent {
        /// Which field.
        field: &'static str,
        /// The number received.
        value: u32,
    },
    /// A status that no response has.
    #[error("{value} is not a status of a response")]
    Status {
        /// The number received.
        value: u32,
    },
    /// Trust domain, namespace or service account cannot be part of a SPIFFE ID.
    #[error("no identity")]
    Identity(#[from] tulle_model::InvalidSpiffeId),
}

#[cfg(test)]
pub(crate) mod tests;
