use super::*;
use crate::identity::LeafKey;
use crate::mesh::SpiffeId;
use std::time::Duration;

#[tokio::test]
async fn a_leaf_carries_its_identity_and_nothing_that_the_request_claimed() {
    let dir = std::env::temp_dir().join(format!("pillion-ca-{}", rand::random::<u64>()));
    let ca = EmbeddedCa::open(&dir, &"cluster.local".parse().unwrap()).unwrap();
    let identity: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
    let other: SpiffeId = "spiffe://cluster.local/ns/shop/sa/admin".parse().unwrap();
    let key = LeafKey::generate().unwrap();
    let request = SigningRequest {
        identity: identity.clone(),
        csr: key.signing_request(&other).unwrap(),
        lifetime: Duration::from_secs(3600),
    };
    let issued = ca.sign(request).await.unwrap();
    let certificate = key.certificate(issued).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(certificate.identity, identity);
    let life = certificate.not_after - certificate.not_before;
    assert_eq!(life.whole_seconds(), 3600 + 120);
}
