//! Sockets, network namespaces, redirection rules: the one home of unsafe code
