//! Certificates that are not to be accepted any more, though they have not expired.

use super::{Dir, OperationError};
use crate::cli::Serial;
use crate::identity::ca_dir::{CRL, FORMER, NEXT, SIGNING, SigningRoot, Snapshot};
use crate::identity::place::READABLE;
use crate::identity::{Crl, Revoked, serial_text};
use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, RevokedCertParams, SerialNumber};
use time::OffsetDateTime;

/// A serial number does not say whose it is: each root whose key is here revokes it. They are random, so that it is
/// nobody else's.
pub(super) fn revoke(dir: &Dir, serials: &[Serial]) -> Result<String, OperationError> {
    dir.signing()?;
    let crls = Snapshot::read(&dir.path).crls()?;
    let now = OffsetDateTime::now_utc();
    let mut issuers = Vec::new();
    for name in [SIGNING, FORMER, NEXT] {
        issuers.extend(dir.root_at(name)?.filter(|issuer| issuer.root.not_after > now));
    }
    let of_others = crls.iter().filter(|crl| !issuers.iter().any(|issuer| issuer.root.has_signed(crl)));
    let mut pem: String = of_others.map(|crl| crl.pem()).collect();
    for issuer in &issuers {
        let own = crls.iter().filter(|crl| issuer.root.has_signed(crl));
        let mut revoked: Vec<Revoked> = own.flat_map(|crl| crl.revoked.clone()).collect();
        for Serial(serial) in serials {
            if revoked.iter().all(|there| there.serial != *serial) {
                revoked.push(Revoked { serial: serial.clone(), since: now });
            }
        }
        pem += &sign(issuer, &revoked, now)?.pem();
    }
    dir.write(&dir.path.join(CRL), &pem, READABLE)?;
    let serials: Vec<String> = serials.iter().map(|Serial(serial)| serial_text(serial)).collect();
    Ok(format!(
        "revoked {}; agents refuse it within a second, and cut what is open\n\
         a pod whose worker still has it gets another certificate at once: remove the pod, or its identity's rights, if it \
         is not to come back",
        serials.join(", ")
    ))
}

fn sign(issuer: &SigningRoot, revoked: &[Revoked], now: OffsetDateTime) -> Result<Crl, OperationError> {
    let SigningRoot { key, root } = issuer;
    let entry = |Revoked { serial, since }: &Revoked| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: *since,
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: now,
        // Nobody writes it anew unless something else is revoked.
        next_update: root.not_after,
        crl_number: SerialNumber::from_slice(&now.unix_timestamp_nanos().to_be_bytes()),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let error = |reason: String| OperationError::Crl { issuer: root.subject.clone(), reason };
    let signer = Issuer::from_ca_cert_der(&root.certificate, key).map_err(|e| error(e.to_string()))?;
    let list = list.signed_by(&signer).map_err(|e| error(e.to_string()))?;
    Crl::parse(list.into()).map_err(error)
}
