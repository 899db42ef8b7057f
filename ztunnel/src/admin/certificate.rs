//! A certificate in words.

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::{parse_x509_certificate, time::ASN1Time};

/// One certificate of a chain or of the roots.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Certificate {
    /// The PEM text, itself in base64.
    pem: String,
    serial_number: String,
    valid_from: String,
    expiration_time: String,
}

/// Describes certificates; what cannot be read is shown by its PEM alone.
pub(super) fn describe_all(certificates: &[CertificateDer<'_>]) -> Vec<Certificate> {
    certificates.iter().map(describe).collect()
}

fn describe(der: &CertificateDer<'_>) -> Certificate {
    let (serial_number, valid_from, expiration_time) = match parse_x509_certificate(der) {
        Ok((_, parsed)) => (
            parsed.tbs_certificate.serial.to_string(),
            rfc3339(parsed.validity().not_before),
            rfc3339(parsed.validity().not_after),
        ),
        Err(_) => Default::default(),
    };
    Certificate {
        pem: BASE64_STANDARD.encode(pem(der)),
        serial_number,
        valid_from,
        expiration_time,
    }
}

fn pem(der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

fn rfc3339(time: ASN1Time) -> String {
    let format = &time::format_description::well_known::Rfc3339;
    time.to_datetime().format(format).unwrap_or_default()
}
