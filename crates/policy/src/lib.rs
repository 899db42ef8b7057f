//! L4 authorization: policies and connection facts in, permit or denial out
