//! Certificates, good and bad.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use std::fs;
use std::path::{Path, PathBuf};

/// An authority, with its files in a directory.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Validity {
    Good,
    Expired,
}

// === impl Pki ===

impl Pki {
    /// An authority whose files are named after it: `<name>.pem`, `<name>-server.pem`, ...
    pub fn create(directory: &Path, name: &str) -> Self {
        let directory = directory.join(name);
        fs::create_dir(&directory).expect("the scratch directory is writable");
        let mut params = params(&[], name, Validity::Good);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("a CA can sign itself");
        write(&directory.join("ca.pem"), &certificate.pem());
        Self { directory, issuer: Issuer::new(params, key) }
    }

    /// The authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// A server's, for 127.0.0.1 and `localhost`.
    pub fn server(&self) -> Pair {
        self.issue("server", &["127.0.0.1", "localhost"], Validity::Good)
    }

    /// A server's, for another name only.
    pub fn server_named(&self, name: &str) -> Pair {
        self.issue("server-named", &[name], Validity::Good)
    }

    /// A server's that has expired.
    pub fn expired_server(&self) -> Pair {
        self.issue("server-expired", &["127.0.0.1", "localhost"], Validity::Expired)
    }

    /// A client's.
    pub fn client(&self) -> Pair {
        self.issue("client", &[], Validity::Good)
    }

    /// A client's that has expired.
    pub fn expired_client(&self) -> Pair {
        self.issue("client-expired", &[], Validity::Expired)
    }

    fn issue(&self, file: &str, names: &[&str], validity: Validity) -> Pair {
        let mut params = params(names, file, validity);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("a CA can sign");
        let pair = Pair {
            cert: self.directory.join(format!("{file}.pem")),
            key: self.directory.join(format!("{file}.key")),
        };
        write(&pair.cert, &certificate.pem());
        write(&pair.key, &key.serialize_pem());
        pair
    }
}

// === impl Pair ===

impl Pair {
    /// Puts another certificate and key in place of these, the key first.
    pub fn replace_with(&self, other: &Self) {
        fs::copy(&other.key, &self.key).expect("the scratch directory is writable");
        fs::copy(&other.cert, &self.cert).expect("the scratch directory is writable");
    }
}

fn params(names: &[&str], common_name: &str, validity: Validity) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("the names are names");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = match validity {
        Validity::Good => date_time_ymd(2120, 1, 1),
        Validity::Expired => date_time_ymd(2020, 2, 1),
    };
    params
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the scratch directory is writable");
}
