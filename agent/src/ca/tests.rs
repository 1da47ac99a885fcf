use super::*;
use crate::cli::{CaPlace, Revoke, Serial};
use crate::identity::{
    CertificateAuthority, ChainId, EmbeddedCa, LeafKey, SigningRequest, WorkloadCertificate,
};
use crate::mesh::SpiffeId;
use std::fs;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn place(dir: &Path) -> CaPlace {
    CaPlace { ca_dir: Some(dir.to_owned()), secret: None, kubeconfig: None }
}

fn run(operation: &CaOperation) -> Result<String, OperationError> {
    let dir = operation.place().ca_dir.as_deref().unwrap();
    in_dir(operation, dir, format!("--ca-dir {}", dir.display()))
}

/// A directory with a root, an agent's view of it, and the commands.
struct Stage {
    path: PathBuf,
    ca: EmbeddedCa,
}

impl Stage {
    fn set() -> Self {
        let path = std::env::temp_dir().join(format!("pillion-ca-{}", rand::random::<u64>()));
        let ca = EmbeddedCa::open(&path, &"cluster.local".parse().unwrap()).unwrap();
        Self { path, ca }
    }

    fn place(&self) -> CaPlace {
        place(&self.path)
    }

    fn show(&self) -> String {
        run(&CaOperation::Show(self.place())).unwrap()
    }

    fn begin(&self) -> Result<String, String> {
        run(&CaOperation::Rotate(Rotate::Begin(self.place()))).map_err(|e| e.to_string())
    }

    fn switch(&self, force: bool) -> Result<String, String> {
        run(&CaOperation::Rotate(Rotate::Switch(Switch { place: self.place(), force })))
            .map_err(|e| e.to_string())
    }

    fn finish(&self, force: bool) -> Result<String, String> {
        let finish = Finish { place: self.place(), cert_lifetime: HOUR, force };
        run(&CaOperation::Rotate(Rotate::Finish(finish))).map_err(|e| e.to_string())
    }

    fn revoke(&self, serial: &str) -> String {
        let bytes = (0..serial.len()).step_by(2).map(|i| u8::from_str_radix(&serial[i..i + 2], 16).unwrap());
        let serials = vec![Serial(bytes.collect())];
        run(&CaOperation::Revoke(Revoke { place: self.place(), serials })).unwrap()
    }

    fn roots(&self) -> Vec<String> {
        self.ca.trust().borrow().roots().map(|root| root.subject.clone()).collect()
    }

    /// Until the agent has seen that.
    async fn trusts(&self, roots: usize, revoked: usize) {
        let mut trust = self.ca.trust();
        let seen = trust.wait_for(|trust| trust.roots().count() == roots && trust.revocations() == revoked);
        seen.await.unwrap();
    }

    async fn certificate(&self) -> Result<WorkloadCertificate, String> {
        let identity = SpiffeId::new(&"cluster.local".parse().unwrap(), "shop", "cart");
        let key = LeafKey::generate().unwrap();
        let csr = key.signing_request(&identity).unwrap();
        let issued = self.ca.sign(SigningRequest { identity, csr, lifetime: HOUR }).await;
        Ok(key.certificate(issued.map_err(|e| e.to_string())?).unwrap())
    }

    fn revoked(&self, chain: &ChainId) -> bool {
        self.ca.trust().borrow().revoked(chain).is_some()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

// proves: ID-2
#[tokio::test(start_paused = true)]
async fn a_root_is_trusted_before_it_signs_and_until_nothing_of_it_can_be_left() {
    let stage = Stage::set();
    let former = stage.roots().remove(0);
    assert!(stage.switch(true).unwrap_err().contains("pillion ca rotate begin"));
    let said = stage.begin().unwrap();
    assert!(said.contains("pillion ca rotate switch"), "{said}");
    stage.trusts(2, 0).await;
    assert_eq!(stage.certificate().await.unwrap().issuer, former, "the new root does not sign yet");
    assert!(stage.begin().unwrap_err().contains("under way"));
    assert!(stage.show().contains("trusted, next"), "{}", stage.show());

    let early = stage.switch(false).unwrap_err();
    assert!(early.contains("wait until") && early.contains("--force"), "{early}");
    let said = stage.switch(true).unwrap();
    assert!(said.contains("pillion ca rotate finish"), "{said}");
    // Agents follow within a second, which here is one that the clock jumps over.
    let signed_by_another = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let issuer = stage.certificate().await.unwrap().issuer;
            assert!(stage.roots().contains(&issuer), "{issuer} has signed and is not trusted");
            if issuer != former {
                return issuer;
            }
        }
    };
    let next = signed_by_another.await;
    stage.trusts(2, 0).await;
    assert!(stage.show().contains("trusted, former"), "{}", stage.show());

    let early = stage.finish(false).unwrap_err();
    assert!(early.contains("--cert-lifetime 1h") && early.contains(&former), "{early}");
    let said = stage.finish(true).unwrap();
    assert!(said.contains("trusted no longer"), "{said}");
    stage.trusts(1, 0).await;
    assert_eq!(stage.roots(), [next]);
    assert!(stage.finish(true).unwrap_err().contains("pillion ca rotate begin"));
    let keys = fs::read_dir(&stage.path).unwrap().filter(|file| {
        let text = fs::read_to_string(file.as_ref().unwrap().path());
        text.is_ok_and(|text| text.contains("PRIVATE KEY"))
    });
    assert_eq!(keys.count(), 1, "the former root's key is gone");
}

// proves: ID-2
#[tokio::test(start_paused = true)]
async fn what_is_revoked_stays_so_while_its_root_is_trusted() {
    let stage = Stage::set();
    let (one, other) = (stage.certificate().await.unwrap(), stage.certificate().await.unwrap());
    let said = stage.revoke(&one.serial);
    assert!(said.contains(&one.serial), "{said}");
    stage.trusts(1, 1).await;
    assert!(stage.revoked(&one.chain_id()) && !stage.revoked(&other.chain_id()));
    assert!(stage.show().contains(&format!("revoked          {}", one.serial)), "{}", stage.show());
    // Again, and another: each is there once.
    stage.revoke(&one.serial);
    stage.begin().unwrap();
    stage.trusts(2, 1).await;
    stage.switch(true).unwrap();
    // The former root's key is kept for this.
    stage.revoke(&other.serial);
    stage.trusts(2, 3).await;
    assert!(stage.revoked(&one.chain_id()) && stage.revoked(&other.chain_id()));
    stage.finish(true).unwrap();
    stage.trusts(1, 1).await;
}

// proves: ID-2
#[tokio::test(start_paused = true)]
async fn a_broken_file_leaves_the_last_good_trust_in_force_and_is_named() {
    let stage = Stage::set();
    let certificate = stage.certificate().await.unwrap();
    stage.revoke(&certificate.serial);
    stage.begin().unwrap();
    stage.trusts(2, 1).await;
    let mut errors = stage.ca.errors();
    let roots = stage.roots();
    let forged = {
        let stranger = Stage::set();
        stranger.revoke("7b");
        let text = fs::read_to_string(stranger.path.join("ca-crl.pem")).unwrap();
        // In the name of the mesh's root, by another's key.
        let (theirs, ours) = (stranger.roots().remove(0), roots[0].clone());
        let mut der = pem::parse(text).unwrap().into_contents();
        let (theirs, ours) = (theirs.rsplit(' ').next().unwrap(), ours.rsplit(' ').next().unwrap());
        let at = der.windows(theirs.len()).position(|part| part == theirs.as_bytes()).unwrap();
        der[at..at + ours.len()].copy_from_slice(ours.as_bytes());
        pem::encode(&pem::Pem::new("X509 CRL", der))
    };
    for (file, content, says) in [
        ("ca-crl.pem", "not a list", "no usable CRL: there is no X509 CRL in it"),
        ("ca-crl.pem", &forged, "is not signed by the trusted root of that name"),
        ("trusted/more.pem", "not a certificate", "more.pem is to be trusted, and holds no usable root"),
    ] {
        let path = stage.path.join(file);
        let before = fs::read(&path).ok();
        fs::write(&path, content).unwrap();
        let said = errors.wait_for(|errors| !errors.is_empty()).await.unwrap().join(", ");
        assert!(said.contains(says), "{said}");
        assert_eq!(stage.roots(), roots);
        assert!(stage.revoked(&certificate.chain_id()), "{file}");
        assert!(stage.certificate().await.is_ok(), "{file} is not what it signs with");
        match before {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        errors.wait_for(Vec::is_empty).await.unwrap();
    }
}

type Break = fn(&Path);

// proves: ID-2
#[tokio::test(start_paused = true)]
async fn an_authority_whose_root_is_broken_does_not_sign_until_it_is_mended() {
    let stage = Stage::set();
    let roots = stage.roots();
    let path = stage.path.join("ca.pem");
    let good = fs::read(&path).unwrap();
    let mut errors = stage.ca.errors();
    let ways: [(&str, Break); 3] = [
        ("is gone: put it back", |path| fs::remove_file(path).unwrap()),
        ("holds no usable root", |path| fs::write(path, "not a key").unwrap()),
        ("chmod 600 it", |path| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        }),
    ];
    for (says, break_it) in ways {
        break_it(&path);
        errors.wait_for(|errors| !errors.is_empty()).await.unwrap();
        let said = stage.certificate().await.err().unwrap();
        assert!(said.contains("could not sign for spiffe://") && said.contains(says), "{said}");
        assert_eq!(stage.roots(), roots, "what it has signed is good still");
        fs::remove_file(&path).ok();
        place::write(&path, std::str::from_utf8(&good).unwrap(), place::PRIVATE).unwrap();
        errors.wait_for(Vec::is_empty).await.unwrap();
        assert!(stage.certificate().await.is_ok());
    }
}

#[tokio::test]
async fn a_directory_that_does_not_serve_is_named() {
    let nowhere = std::env::temp_dir().join("pillion-nowhere");
    let said = run(&CaOperation::Show(place(&nowhere))).unwrap_err().to_string();
    assert!(said.contains(&nowhere.display().to_string()), "{said}");
    let stage = Stage::set();
    let held = Dir::open(&stage.path, String::new()).unwrap();
    assert!(stage.begin().unwrap_err().contains("another `pillion ca`"));
    drop(held);
    fs::remove_file(stage.path.join("ca.pem")).unwrap();
    assert!(stage.begin().unwrap_err().contains("has no root"));
}
