//! Keys, certificates, peer verification and the certificate authority client
