//! A command on a Secret: it is done to a copy in memory, which is written back if nobody else was first.

use super::memory::{MEMORY, PrivateDir};
use super::secret::{Files, is_foreign};
use super::{OperationError, in_dir};
use crate::cli::CaOperation;
use crate::cluster::{ObjectName, chain, connect};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use std::path::Path;

pub async fn run(
    operation: &CaOperation,
    name: &ObjectName,
    kubeconfig: Option<&Path>,
) -> Result<String, OperationError> {
    let wrong = |reason: String| OperationError::Secret { secret: name.clone(), reason };
    let api: Api<Secret> = Api::namespaced(connect(kubeconfig).await?, &name.namespace);
    let found = api.get_opt(&name.name).await.map_err(|e| wrong(chain(&e)))?;
    let mut secret = found.ok_or_else(|| wrong("there is none; `pillion ca serve` makes it".to_owned()))?;
    if is_foreign(&secret) && !matches!(operation, CaOperation::Show(_)) {
        return Err(OperationError::Foreign { secret: name.clone() });
    }
    let before = Files::of_secret(&secret).map_err(wrong)?;
    let memory = |e: std::io::Error| wrong(format!("{MEMORY}: {e}"));
    let dir = PrivateDir::new(Path::new(MEMORY)).map_err(memory)?;
    before.write(dir.path()).map_err(memory)?;
    let said = in_dir(operation, dir.path(), format!("--secret {name}"))
        .map_err(|e| wrong(dir.renamed(&e.to_string(), "its")))?;
    let after = Files::of_dir(dir.path()).map_err(memory)?;
    if after == before {
        return Ok(said);
    }
    after.put_into(&mut secret);
    // With the version that was read: a Secret that is another meanwhile is not overwritten.
    match api.replace(&name.name, &PostParams::default(), &secret).await {
        Ok(_) => Ok(said),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Err(OperationError::Changed { secret: name.clone() })
        }
        Err(e) => Err(wrong(chain(&e))),
    }
}
