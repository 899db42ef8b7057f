//! The operator's command: demo, inspect
