//! The control plane: manifests to workload xDS, certificate authority
