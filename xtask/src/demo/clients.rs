//! The clients: curl, redis-cli and a few lines of Python, each a process of its pod.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pillion_tests::{Pod, Process, apps, wait};

/// What a request with curl gave.
pub struct Fetched {
    pub body: String,
    /// The client's own port.
    pub port: u16,
    /// Bytes that curl sent and received, headers included.
    pub sent: u64,
    pub received: u64,
}

/// One HTTP request over a connection of its own. `path` begins with a slash.
pub fn fetch(client: &Pod, host: IpAddr, path: &str) -> Result<Fetched> {
    const REPORT: &str = "\n%{local_port} %{size_request} %{size_header} %{size_download}";
    let url = format!("http://{}{path}", SocketAddr::new(host, 80));
    let said = client.command("curl").args(["-sS", "-g", "-m", "10", "-w", REPORT, &url]).run()?;
    let (body, report) = said.rsplit_once('\n').context("curl reported nothing")?;
    let numbers: Vec<u64> = report.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [port, sent, header, download] = numbers[..] else { bail!("curl reported {report:?}") };
    Ok(Fetched {
        body: body.trim_end().to_owned(),
        port: port.try_into()?,
        sent,
        received: header + download,
    })
}

/// A redis-cli that stays connected.
pub struct Session(Process);

impl Session {
    /// `name` is for its log, and used once.
    pub fn open(client: &Pod, host: IpAddr, name: &str) -> Result<Self> {
        let session =
            client.command("redis-cli").args(["-h", &host.to_string()]).log(name).start().map(Self)?;
        session.connection()?;
        Ok(session)
    }

    /// Redis's number for this connection: redis-cli connects anew when one is lost, and gets another.
    pub fn connection(&self) -> Result<u64> {
        let before = self.0.log().lines().count();
        self.0.write_line("CLIENT ID")?;
        let answer = wait::until("Redis to answer", Duration::from_secs(10), || {
            Ok(self.0.log().strip_suffix('\n').and_then(|log| log.lines().nth(before).map(str::to_owned)))
        })?;
        answer.parse().with_context(|| format!("Redis said {answer:?}"))
    }

    pub fn close(self) -> Result<()> {
        self.0.close_input();
        let status = self.0.wait(Duration::from_secs(10))?;
        ensure!(status.success(), "redis-cli ended with {status}: {}", self.0.log());
        Ok(())
    }
}

/// Runs a Python program and gives the words it printed.
pub fn python<const N: usize>(client: &Pod, script: &str, args: &[String]) -> Result<[String; N]> {
    let said = apps::python(client, script, args).run()?;
    let words: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
    words.try_into().map_err(|_| anyhow::anyhow!("the Python client said {said:?}"))
}
