//! Delta xDS: client, server, and the translation between protobuf and model
