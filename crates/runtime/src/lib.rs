//! What every process needs: readiness, drain, signals, logs, metrics, admin server
