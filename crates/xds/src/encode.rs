//! Model to protobuf, always the same bytes for the same value.
//!
//! Versions of resources are hashes of these bytes, so they agree on every replica and between releases that encode
//! the same fields. Values that are defaults on the wire are left out.

use prost::Message;
use tulle_model::Authorization;
use tulle_proto::{mesh, workload as wire};

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

/// Writes an `istio.workload.Address` message.
pub fn address(address: &Address) -> Vec<u8> {
    let kind = match address {
        Address::Workload(value) => wire::address::Type::Workload(workload::workload(value)),
        Address::Service(value) => wire::address::Type::Service(service::service(value)),
    };
    wire::Address { r#type: Some(kind) }.encode_to_vec()
}

/// Writes an `istio.security.Authorization` message.
pub fn authorization(policy: &Authorization) -> Vec<u8> {
    authorization::authorization(policy).encode_to_vec()
}

/// Writes a `tulle.mesh.v1.Configuration` message.
pub fn configuration(value: &Configuration) -> Vec<u8> {
    let kind = match value {
        Configuration::Routes(value) => {
            mesh::configuration::Kind::Routes(configuration::routes(value))
        }
        Configuration::Traffic(value) => mesh::configuration::Kind::Traffic(traffic::rule(value)),
        Configuration::Tokens(value) => mesh::configuration::Kind::Tokens(token::policy(value)),
        Configuration::Authorizer(value) => {
            mesh::configuration::Kind::Authorizer(authorizer::authorizer(value))
        }
        Configuration::Telemetry(value) => {
            mesh::configuration::Kind::Telemetry(telemetry::telemetry(value))
        }
        Configuration::Limits(value) => mesh::configuration::Kind::Limits(limit::policy(value)),
        Configuration::Membership(value) => {
            mesh::configuration::Kind::Membership(traffic::membership(value))
        }
    };
    mesh::Configuration { kind: Some(kind) }.encode_to_vec()
}
