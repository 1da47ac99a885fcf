//! What stands, as Kubernetes objects: one file an object (a Service with its EndpointSlices), written at every
//! change, whole or not at all.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A pod's name in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodKey {
    pub namespace: String,
    pub name: String,
}

/// What a pod's object says.
pub(crate) struct PodObject {
    pub key: PodKey,
    pub uid: String,
    node: String,
    pub service_account: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub addresses: Vec<IpAddr>,
    pub netns: PathBuf,
    /// The object says where the network namespace is. A runtime does otherwise.
    pub names_netns: bool,
    pub probed_port: Option<u16>,
    pub ready: bool,
    pub terminating: bool,
}

/// A Service of one TCP port, as clients address it.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub ip4: Ipv4Addr,
    pub ip6: Ipv6Addr,
    pub port: u16,
    target_port: u16,
    pods: Vec<PodKey>,
}

/// The directory that the agents watch, and what is in it.
pub(crate) struct Manifests {
    dir: PathBuf,
    objects: Mutex<Objects>,
}

#[derive(Default)]
struct Objects {
    pods: BTreeMap<PodKey, PodObject>,
    services: Vec<Service>,
}

impl PodKey {
    /// Names the pod in files, cgroups and network namespaces; a dot cannot stand in a namespace's name.
    pub fn file_stem(&self) -> String {
        match self.namespace.as_str() {
            "default" => self.name.clone(),
            namespace => format!("{namespace}.{}", self.name),
        }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl PodObject {
    pub fn new(name: &str, node: &str) -> Self {
        // Another pod under the same name is another pod, as in a cluster.
        static UIDS: AtomicU32 = AtomicU32::new(1);
        let uid = UIDS.fetch_add(1, Ordering::Relaxed);
        Self {
            key: PodKey { namespace: "default".into(), name: name.into() },
            uid: format!("00000000-0000-4000-8000-{uid:012}"),
            node: node.into(),
            service_account: name.into(),
            labels: BTreeMap::from([("app".into(), name.into())]),
            annotations: BTreeMap::new(),
            addresses: Vec::new(),
            netns: PathBuf::new(),
            names_netns: true,
            probed_port: None,
            ready: true,
            terminating: false,
        }
    }

    fn to_json(&self) -> Value {
        let mut annotations = self.annotations.clone();
        if self.names_netns && !self.netns.as_os_str().is_empty() {
            annotations.entry("pillion.dev/netns".into()).or_insert_with(|| self.netns.display().to_string());
        }
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.key.name, "namespace": self.key.namespace, "uid": self.uid,
                "labels": self.labels, "annotations": annotations,
            },
            "spec": {"nodeName": self.node, "serviceAccountName": self.service_account},
            "status": {
                "phase": "Running",
                "podIP": self.addresses.first(),
                "podIPs": self.addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
            },
        });
        if let Some(port) = self.probed_port {
            let probe = json!({"httpGet": {"path": "/hello", "port": port}});
            object["spec"]["containers"] = json!([{"name": "app", "readinessProbe": probe}]);
        }
        if self.terminating {
            object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        object
    }
}

impl Service {
    fn file(&self) -> String {
        format!("service-{}.yaml", self.name)
    }

    fn to_json(&self, pods: &BTreeMap<PodKey, PodObject>) -> Vec<Value> {
        let slices = [("IPv4", false), ("IPv6", true)].map(|(family, ipv6)| {
            let pods = self.pods.iter().filter_map(|key| pods.get(key));
            let endpoint = |pod: &PodObject| {
                let address = pod.addresses.iter().find(|ip| ip.is_ipv6() == ipv6)?;
                let ready = pod.ready && !pod.terminating;
                Some(json!({
                    "addresses": [address],
                    "conditions": {"ready": ready, "serving": pod.ready, "terminating": pod.terminating},
                }))
            };
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{}-{}", self.name, family.to_lowercase()), "namespace": "default",
                    "labels": {"kubernetes.io/service-name": self.name},
                },
                "addressType": family,
                "endpoints": pods.filter_map(endpoint).collect::<Vec<_>>(),
                "ports": [{"name": "", "port": self.target_port, "protocol": "TCP"}],
            })
        });
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": {
                "clusterIP": self.ip4, "clusterIPs": [self.ip4.to_string(), self.ip6.to_string()],
                "ports": [{"port": self.port, "protocol": "TCP", "targetPort": self.target_port}],
            },
        });
        [service].into_iter().chain(slices).collect()
    }
}

impl Manifests {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, objects: Mutex::default() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn put_pod(&self, pod: PodObject) -> Result<()> {
        let mut objects = self.objects.lock().expect("no holder panics");
        let key = pod.key.clone();
        objects.pods.insert(key.clone(), pod);
        self.write_pod(&objects, &key)
    }

    pub fn change_pod(&self, key: &PodKey, change: impl FnOnce(&mut PodObject)) -> Result<()> {
        let mut objects = self.objects.lock().expect("no holder panics");
        change(objects.pods.get_mut(key).with_context(|| format!("the pod {key} is deleted"))?);
        self.write_pod(&objects, key)
    }

    /// What a pod's object says of this.
    pub fn of_pod<T>(&self, key: &PodKey, read: impl FnOnce(&PodObject) -> T) -> Result<T> {
        let objects = self.objects.lock().expect("no holder panics");
        Ok(read(objects.pods.get(key).with_context(|| format!("the pod {key} is deleted"))?))
    }

    /// Takes the pod's object away and remembers it: the next [`Manifests::change_pod`] brings it back.
    pub fn hide_pod(&self, key: &PodKey) -> Result<()> {
        let objects = self.objects.lock().expect("no holder panics");
        objects.pods.get(key).with_context(|| format!("the pod {key} is deleted"))?;
        self.remove(&pod_file(key))
    }

    pub fn remove_pod(&self, key: &PodKey) -> Result<()> {
        let mut objects = self.objects.lock().expect("no holder panics");
        objects.pods.remove(key).with_context(|| format!("the pod {key} is deleted"))?;
        self.write_services_of(&objects, key)?;
        self.remove(&pod_file(key))
    }

    /// Cluster IPs are given in order, from 10.96.0.1 and fd96::1: no service is ever removed.
    pub fn add_service(&self, name: &str, port: u16, target_port: u16, pods: Vec<PodKey>) -> Result<Service> {
        let mut objects = self.objects.lock().expect("no holder panics");
        let number = u16::try_from(objects.services.len() + 1)?;
        let [high, low] = number.to_be_bytes();
        let service = Service {
            name: name.to_owned(),
            ip4: Ipv4Addr::new(10, 96, high, low),
            ip6: Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, number),
            port,
            target_port,
            pods,
        };
        objects.services.push(service.clone());
        self.write_service(&objects, &service)?;
        Ok(service)
    }

    fn write_pod(&self, objects: &Objects, key: &PodKey) -> Result<()> {
        self.write(&pod_file(key), &to_yaml(&[objects.pods[key].to_json()])?)?;
        self.write_services_of(objects, key)
    }

    fn write_services_of(&self, objects: &Objects, key: &PodKey) -> Result<()> {
        let mut services = objects.services.iter().filter(|service| service.pods.contains(key));
        services.try_for_each(|service| self.write_service(objects, service))
    }

    fn write_service(&self, objects: &Objects, service: &Service) -> Result<()> {
        self.write(&service.file(), &to_yaml(&service.to_json(&objects.pods))?)
    }

    /// Through a file of another name: who watches sees the old text or the new.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let (path, draft) = (self.dir.join(file), self.dir.join(format!(".{file}.draft")));
        let write = || fs::write(&draft, text).and_then(|()| fs::rename(&draft, &path));
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.dir.join(file);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

fn pod_file(key: &PodKey) -> String {
    format!("pod-{}.yaml", key.file_stem())
}

fn to_yaml(objects: &[Value]) -> Result<String> {
    let documents: Vec<String> = objects.iter().map(serde_saphyr::to_string).collect::<Result<_, _>>()?;
    Ok(documents.join("---\n"))
}
