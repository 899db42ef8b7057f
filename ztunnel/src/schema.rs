//! Resources as text: the form of the local file and of the configuration dump.
//!
//! Both have the same names, those that existing tools read and write. Unknown keys are rejected. What is written
//! leaves out what has its default value, except where a tool would show nothing.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tulle_model::{Destination, GatewayAddress, Health, NetworkAddress, ServiceKey};

/// An enum that is written like one of the model, variant by variant.
macro_rules! mirror {
    ($(#[$attribute:meta])* $visibility:vis enum $text:ident = $model:ty {
        $($(#[$rename:meta])* $variant:ident),* $(,)?
    }) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        $(#[$attribute])*
        $visibility enum $text {
            $($(#[$rename])* $variant),*
        }

        impl From<$model> for $text {
            fn from(model: $model) -> Self {
                match model {
                    $(<$model>::$variant => Self::$variant),*
                }
            }
        }

        impl From<$text> for $model {
            fn from(text: $text) -> Self {
                match text {
                    $($text::$variant => Self::$variant),*
                }
            }
        }
    };
    ($(#[$attribute:meta])* $visibility:vis enum $text:ident = $model:ty {
        $($variants:tt)*
    } with default) => {
        mirror! { $(#[$attribute])* $visibility enum $text = $model { $($variants)* } }

        impl Default for $text {
            fn default() -> Self {
                <$model>::default().into()
            }
        }
    };
}

mod policy;
mod service;
mod workload;

pub(crate) use policy::Policy;
pub(crate) use service::{Endpoint, Service};
pub(crate) use workload::Workload;

/// A value that is written as one string.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Text<T>(pub(crate) T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// Where a waypoint or a network gateway is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Gateway {
    destination: Text<GatewayDestination>,
    hbone_mtls_port: u16,
}

impl From<&GatewayAddress> for Gateway {
    fn from(gateway: &GatewayAddress) -> Self {
        Self {
            destination: Text(GatewayDestination(gateway.destination.clone())),
            hbone_mtls_port: gateway.hbone_mtls_port,
        }
    }
}

impl From<Gateway> for GatewayAddress {
    fn from(gateway: Gateway) -> Self {
        Self {
            destination: gateway.destination.0.0,
            hbone_mtls_port: gateway.hbone_mtls_port,
        }
    }
}

/// `<network>/<ip>`, or else `<namespace>/<hostname>`.
#[derive(Clone, Debug, PartialEq)]
struct GatewayDestination(Destination);

impl fmt::Display for GatewayDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Destination::Address(address) => address.fmt(f),
            Destination::Hostname(key) => key.fmt(f),
        }
    }
}

impl FromStr for GatewayDestination {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, InvalidDestination> {
        if let Ok(address) = text.parse::<NetworkAddress>() {
            return Ok(Self(Destination::Address(address)));
        }
        let key: ServiceKey = text.parse().map_err(|_| InvalidDestination)?;
        Ok(Self(Destination::Hostname(key)))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("expected <network>/<ip> or <namespace>/<hostname>")]
struct InvalidDestination;

mirror! {
    /// Whether services may pick a workload.
    pub(crate) enum Status = Health { Healthy, Unhealthy } with default
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_empty(text: &Arc<str>) -> bool {
    text.is_empty()
}
