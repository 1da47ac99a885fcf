//! Handshakes that failed, in words for people who run a mesh: who is at fault, and how to mend it.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use rustls_pki_types::UnixTime;
use std::io;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Why mutual TLS with a peer failed, as the second half of a sentence that began with the peer.
pub fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => explain_tls(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection before the handshake was done".into()
        }
        None => error.to_string(),
    }
}

fn explain_tls(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(e) => explain_certificate(e),
        Error::NoCertificatesPresented => {
            "it showed no certificate: only pods of the mesh may connect to this port".into()
        }
        Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "it and this agent have no protocol in common: HBONE is HTTP/2 (ALPN h2)".into()
        }
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        )
        | Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "it does not speak TLS 1.3, and HBONE is never older".into()
        }
        Error::PeerIncompatible(e) => {
            format!("it and this agent have no algorithms of TLS 1.3 in common ({e:?})")
        }
        Error::InvalidMessage(_) => {
            "what it sent is not TLS: HBONE is never plain, and this port takes nothing else".into()
        }
        Error::AlertReceived(AlertDescription::CertificateRevoked) => {
            "it refused this pod's certificate as revoked: this pod's worker asks for another one when its own agent \
             reads the same CRL"
                .into()
        }
        Error::AlertReceived(alert) if is_about_certificate(*alert) => format!(
            "it refused this pod's certificate (alert {alert:?}): check that both nodes have the same certificate \
             authority and the right time; the peer's log says more"
        ),
        other => other.to_string(),
    }
}

fn explain_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "its certificate is not valid before {}, and this machine's clock says {}: check the clocks of both nodes",
            date(*not_before),
            date(*time)
        ),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "its certificate was valid until {}, and this machine's clock says {}: check the clocks of both nodes, \
             and whether the peer could renew it",
            date(*not_after),
            date(*time)
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate comes from an authority that is not this mesh's: check that both nodes have the same \
             certificate authority"
                .into()
        }
        CertificateError::Revoked => {
            "its certificate is revoked (this mesh's CRL has its serial number): it has to get another one".into()
        }
        CertificateError::Other(e) => e.to_string(),
        other => format!("its certificate is not usable: {other}"),
    }
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::CertificateRequired
            | A::UnknownCA
            | A::AccessDenied
            // A signature that does not fit: an authority of the same name, with another key.
            | A::DecryptError
    )
}

/// RFC 3339, in UTC; the bare number where the calendar ends.
fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let date = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|date| date.format(&Rfc3339).ok());
    date.unwrap_or_else(|| seconds.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn said(error: impl Into<Error>) -> String {
        explain(&io::Error::new(io::ErrorKind::InvalidData, error.into()))
    }

    #[test]
    fn clock_skew_is_called_that() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let early =
            CertificateError::NotValidYetContext { time: at(1_800_000_000), not_before: at(1_800_003_600) };
        assert_eq!(
            said(early),
            "its certificate is not valid before 2027-01-15T09:00:00Z, and this machine's clock says \
             2027-01-15T08:00:00Z: check the clocks of both nodes"
        );
        let late = CertificateError::ExpiredContext { time: at(1_800_003_600), not_after: at(1_800_000_000) };
        assert!(
            said(late)
                .contains("until 2027-01-15T08:00:00Z, and this machine's clock says 2027-01-15T09:00:00Z")
        );
        let never = CertificateError::ExpiredContext { time: at(u64::MAX), not_after: at(0) };
        assert!(said(never).contains("1970-01-01"));
    }

    #[test]
    fn every_explanation_is_one_line() {
        let errors = [
            Error::NoCertificatesPresented,
            Error::NoApplicationProtocol,
            Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon),
            Error::AlertReceived(AlertDescription::UnknownCA),
            Error::AlertReceived(AlertDescription::CertificateRevoked),
            CertificateError::UnknownIssuer.into(),
            CertificateError::Revoked.into(),
        ];
        for error in errors {
            let said = said(error);
            assert!(!said.contains('\n') && !said.contains("  "), "{said:?}");
        }
    }
}
