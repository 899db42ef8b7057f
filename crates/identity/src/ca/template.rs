//! What our certificates look like.

use std::{net::IpAddr, time::SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber,
};
use tulle_model::{SpiffeId, TrustDomain};

use super::IssueError;
use crate::tls;

/// From when until when.
#[derive(Clone, Copy)]
pub(super) struct Validity {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// A workload: client and server, known by one URI. The subject is empty, which makes the names critical.
pub(super) fn workload(id: &SpiffeId, validity: Validity) -> Result<CertificateParams, IssueError> {
    let uri = id.to_string();
    let name = SanType::URI(uri.clone().try_into().map_err(|_| IssueError::Name(uri))?);
    let mut params = leaf(vec![name], validity)?;
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}

/// A server of the control plane, known by DNS names and addresses.
pub(super) fn serving(
    dns_names: &[String],
    addresses: &[IpAddr],
    validity: Validity,
) -> Result<CertificateParams, IssueError> {
    let dns = |name: &String| match name.clone().try_into() {
        Ok(text) if !name.is_empty() => Ok(SanType::DnsName(text)),
        Ok(_) | Err(_) => Err(IssueError::Name(name.clone())),
    };
    let mut names = dns_names.iter().map(dns).collect::<Result<Vec<_>, _>>()?;
    names.extend(addresses.iter().copied().map(SanType::IpAddress));
    if names.is_empty() {
        return Err(IssueError::Name(String::new()));
    }
    let mut params = leaf(names, validity)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

/// A self-signed root that signs leaves and nothing else.
pub(super) fn root(
    trust_domain: &TrustDomain,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(validity)?;
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain.as_str());
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf(names: Vec<SanType>, validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(validity)?;
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn base(validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut serial = [0; 16];
    tls::provider()
        .secure_random
        .fill(&mut serial)
        .map_err(|_| rcgen::Error::RingUnspecified)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}
