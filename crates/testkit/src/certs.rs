//! A certificate authority for tests, which signs anything.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams,
    CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, OtherNameValue, SanType, string::Ia5String,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use tulle_model::SpiffeId;

/// A root, or an intermediate below one.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    /// From this CA up, roots left out.
    intermediates: Vec<(CertificateDer<'static>, String)>,
    root_pem: String,
    root: CertificateDer<'static>,
}

impl TestCa {
    /// A new self-signed root, valid from a day ago for ten years.
    #[expect(clippy::new_without_default, reason = "every call makes another CA")]
    pub fn new() -> Self {
        let (params, key) = ca_params("test root");
        let root = params.self_signed(&key).expect("a root can be signed");
        Self {
            issuer: Issuer::new(params, key),
            intermediates: Vec::new(),
            root_pem: root.pem(),
            root: root.der().clone(),
        }
    }

    /// The CA of somebody else, whose certificate and key have been stolen. It is taken to be a root.
    ///
    /// # Panics
    /// When one of them is not PEM.
    pub fn from_pem(certificate: &str, key: &str) -> Self {
        let key = KeyPair::from_pem(key).expect("a private key");
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
        Self {
            issuer: Issuer::from_ca_cert_der(&der, key).expect("a CA's certificate"),
            intermediates: Vec::new(),
            root_pem: certificate.to_owned(),
            root: der,
        }
    }

    /// An intermediate signed by this CA. With `uri_domain`, it may only issue URIs of that host.
    pub fn intermediate(&self, uri_domain: Option<&str>) -> Self {
        let (mut params, key) = ca_params("test intermediate");
        if let Some(domain) = uri_domain {
            params.custom_extensions.push(permitted_uri(domain));
        }
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("an intermediate can be signed");
        let mut intermediates = vec![(certificate.der().clone(), certificate.pem())];
        intermediates.extend_from_slice(&self.intermediates);
        Self {
            issuer: Issuer::new(params, key),
            intermediates,
            root_pem: self.root_pem.clone(),
            root: self.root.clone(),
        }
    }

    /// The root, PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The root, DER.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The key of this CA, PKCS #8 PEM.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The certificates from this CA up, PEM, root left out: empty for a root.
    pub fn intermediates_pem(&self) -> Vec<String> {
        self.intermediates
            .iter()
            .map(|(_, pem)| pem.clone())
            .collect()
    }

    /// A good certificate for `id`, valid for an hour.
    pub fn svid(&self, id: &SpiffeId) -> Minted {
        self.mint(&LeafSpec::for_id(id))
    }

    /// A certificate as specified, with a new P-256 key.
    pub fn mint(&self, spec: &LeafSpec) -> Minted {
        let key = KeyPair::generate().expect("a key can be made");
        let leaf = spec
            .params()
            .signed_by(&key, &self.issuer)
            .expect("a leaf can be signed");
        Minted {
            chain: self.chain(&leaf),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            key_pem: key.serialize_pem(),
            response: self.response(&leaf),
        }
    }

    /// Signs the key of a CSR for `id`: the answer of a CA, root bundle last.
    ///
    /// # Errors
    /// When the CSR cannot be parsed.
    pub fn sign(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> Result<Vec<String>, rcgen::Error> {
        let csr = CertificateSigningRequestParams::from_pem(csr_pem)?;
        let spec = LeafSpec {
            not_before,
            not_after,
            ..LeafSpec::for_id(id)
        };
        let leaf = spec.params().signed_by(&csr.public_key, &self.issuer)?;
        Ok(self.response(&leaf))
    }

    fn chain(&self, leaf: &Certificate) -> Vec<CertificateDer<'static>> {
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.intermediates.iter().map(|(der, _)| der.clone()));
        chain
    }

    fn response(&self, leaf: &Certificate) -> Vec<String> {
        let mut response = vec![leaf.pem()];
        response.extend(self.intermediates.iter().map(|(_, pem)| pem.clone()));
        response.push(self.root_pem.clone());
        response
    }
}

/// A certificate with its key.
pub struct Minted {
    /// Leaf first, root omitted.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// The same as PKCS #8 PEM.
    pub key_pem: String,
    /// What a CA would have answered: PEM, leaf first, root last.
    pub response: Vec<String>,
}

/// What a leaf shall contain.
#[derive(Clone, Debug)]
pub struct LeafSpec {
    /// URI names, as they are.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// The text of a name of type `otherName`.
    pub other_name: Option<String>,
    /// Common name of the subject; the subject is empty without.
    pub common_name: Option<String>,
    /// Extended key usages.
    pub usages: Vec<Usage>,
    /// Whether it claims to be a CA.
    pub is_ca: bool,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

/// An extended key usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
    /// Signing of code, which is no use to a mesh.
    CodeSigning,
}

impl LeafSpec {
    /// A good leaf for `id`, valid for an hour.
    pub fn for_id(id: &SpiffeId) -> Self {
        let now = SystemTime::now();
        Self {
            uris: vec![id.to_string()],
            dns: Vec::new(),
            other_name: None,
            common_name: None,
            usages: vec![Usage::Server, Usage::Client],
            is_ca: false,
            not_before: now - Duration::from_secs(120),
            not_after: now + Duration::from_secs(3600),
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = &self.common_name {
            params
                .distinguished_name
                .push(DnType::CommonName, name.as_str());
        }
        params.subject_alt_names = self.names();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usages.iter().map(|usage| usage.purpose()).collect();
        params.is_ca = match self.is_ca {
            true => IsCa::Ca(BasicConstraints::Unconstrained),
            false => IsCa::ExplicitNoCa,
        };
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params
    }

    fn names(&self) -> Vec<SanType> {
        let uris = self.uris.iter().map(|uri| SanType::URI(ia5(uri)));
        let dns = self.dns.iter().map(|dns| SanType::DnsName(ia5(dns)));
        let other = self.other_name.iter().map(|text| {
            // The type is that of a Microsoft user principal name.
            let oid = vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3];
            SanType::OtherName((oid, OtherNameValue::Utf8String(text.clone())))
        });
        uris.chain(dns).chain(other).collect()
    }
}

impl Usage {
    fn purpose(self) -> ExtendedKeyUsagePurpose {
        match self {
            Self::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Self::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Self::CodeSigning => ExtendedKeyUsagePurpose::CodeSigning,
        }
    }
}

/// Ways in which a certificate can claim an identity that it must not be granted. Each is signed by the right CA
/// unless its name says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hostile {
    /// Two URI names, the right one first.
    TwoUris,
    /// A NUL byte after the right name.
    NulInUri,
    /// No URI, the right one as a DNS name.
    DnsOnly,
    /// No URI, the right one as an `otherName`.
    OtherName,
    /// No alternative name, the right URI as common name.
    CommonName,
    /// No name at all.
    Nameless,
    /// A URI that is no SPIFFE ID.
    HttpsUri,
    /// A SPIFFE ID that is not of a mesh.
    OtherPath,
    /// Expired a minute ago.
    Expired,
    /// Valid in an hour.
    NotYetValid,
    /// For code signing only.
    WrongUsage,
    /// Without any extended key usage.
    NoUsage,
    /// Itself a CA.
    Ca,
}

impl Hostile {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::TwoUris,
        Self::NulInUri,
        Self::DnsOnly,
        Self::OtherName,
        Self::CommonName,
        Self::Nameless,
        Self::HttpsUri,
        Self::OtherPath,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongUsage,
        Self::NoUsage,
        Self::Ca,
    ];

    /// The certificate's content, for one that would like to be `id`.
    pub fn spec(self, id: &SpiffeId) -> LeafSpec {
        let good = LeafSpec::for_id(id);
        let uri = id.to_string();
        let nameless = LeafSpec {
            uris: Vec::new(),
            ..good.clone()
        };
        let now = SystemTime::now();
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        match self {
            Self::TwoUris => LeafSpec {
                uris: vec![uri, "spiffe://cluster.local/ns/other/sa/other".to_owned()],
                ..good
            },
            Self::NulInUri => LeafSpec {
                uris: vec![format!("{uri}\0.evil.example")],
                ..good
            },
            Self::DnsOnly => LeafSpec {
                dns: vec![uri],
                ..nameless
            },
            Self::OtherName => LeafSpec {
                other_name: Some(uri),
                ..nameless
            },
            Self::CommonName => LeafSpec {
                common_name: Some(uri),
                ..nameless
            },
            Self::Nameless => nameless,
            Self::HttpsUri => LeafSpec {
                uris: vec![uri.replacen("spiffe", "https", 1)],
                ..good
            },
            Self::OtherPath => LeafSpec {
                uris: vec!["spiffe://cluster.local/workload/cart".to_owned()],
                ..good
            },
            Self::Expired => LeafSpec {
                not_before: now - hour,
                not_after: now - minute,
                ..good
            },
            Self::NotYetValid => LeafSpec {
                not_before: now + hour,
                not_after: now + hour * 2,
                ..good
            },
            Self::WrongUsage => LeafSpec {
                usages: vec![Usage::CodeSigning],
                ..good
            },
            Self::NoUsage => LeafSpec {
                usages: Vec::new(),
                ..good
            },
            Self::Ca => LeafSpec {
                is_ca: true,
                ..good
            },
        }
    }
}

fn ca_params(name: &str) -> (CertificateParams, KeyPair) {
    let key = KeyPair::generate().expect("a key can be made");
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "cluster.local");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (now - Duration::from_secs(24 * 3600)).into();
    params.not_after = (now + Duration::from_secs(3650 * 24 * 3600)).into();
    (params, key)
}

/// A critical name constraint that permits URIs of `host` only; rcgen has no type for it. Short-form lengths
/// suffice for a name under 100 bytes.
fn permitted_uri(host: &str) -> CustomExtension {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("a short name");
    let wrap = |tag: u8, content: Vec<u8>| [vec![tag, length(&content)], content].concat();
    let uri = wrap(0x86, host.as_bytes().to_vec());
    let permitted = wrap(0xa0, wrap(0x30, uri));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], wrap(0x30, permitted));
    extension.set_criticality(true);
    extension
}

fn ia5(text: &str) -> Ia5String {
    text.try_into().expect("test names are ASCII")
}
