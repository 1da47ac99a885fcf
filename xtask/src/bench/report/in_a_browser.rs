//! The page as a browser shows it, on narrow and wide screens, light and dark.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use pillion_tests::requirements;
use serde_json::Value;

use super::markup::escape;
use super::{example, html};
use crate::bench::results::Results;

#[test]
fn the_page_fits_a_phone_and_a_wide_screen_in_light_and_dark() {
    let page = html::page(&example::results());
    let [phone, screen] = [(400, false), (1400, true)].map(|(width, dark)| look_at(&page, width, dark));
    for (seen, width) in [(&phone, 400), (&screen, 1400)] {
        assert_eq!(seen["innerWidth"], width);
        assert_eq!(seen["scrollWidth"], width, "something is wider than the page: {seen:#}");
        assert_eq!(seen["drawn"], 7, "{seen:#}");
        assert_eq!(seen["wrong"], Value::Array(vec![]), "texts overlap or leave their figure at {width}");
    }
    assert_eq!([&phone["dark"], &screen["dark"]], [false, true]);
    assert_ne!(phone["background"], screen["background"]);
    assert_ne!(phone["colour"], screen["colour"]);
}

#[test]
fn a_page_without_results_says_so_and_fits() {
    let mut nothing = example::results();
    nothing.results.clear();
    nothing.distributions.clear();
    assert_absent(&nothing, 7);
    let mut one = example::results();
    one.results.retain(|s| s.contestant == "pillion" && s.case == "http1-c32");
    one.distributions.clear();
    assert_absent(&one, 6);
}

fn assert_absent(results: &Results, count: usize) {
    let seen = look_at(&html::page(results), 400, false);
    assert_eq!(seen["scrollWidth"], 400, "{seen:#}");
    assert_eq!(seen["absent"], count, "{seen:#}");
    assert_eq!(seen["drawn"], 7 - count, "{seen:#}");
}

/// Looks for what is wrong: texts of a figure that overlap or leave it.
const PROBE: &str = r#"<script>
addEventListener("load", () => {
  const wrong = [];
  for (const svg of document.querySelectorAll("figure svg")) {
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map(e => [e.textContent, e.getBoundingClientRect()]);
    texts.forEach(([a, r], i) => {
      if (r.left < frame.left - 1 || r.right > frame.right + 1 || r.top < frame.top - 1 || r.bottom > frame.bottom + 1)
        wrong.push(`${a} leaves ${svg.parentNode.id}`);
      for (const [b, s] of texts.slice(i + 1))
        if (r.left < s.right - 1 && r.right > s.left + 1 && r.top < s.bottom - 3 && r.bottom > s.top + 3)
          wrong.push(`${a} overlaps ${b} in ${svg.parentNode.id}`);
    });
  }
  const style = getComputedStyle(document.body);
  const seen = { innerWidth, scrollWidth: document.documentElement.scrollWidth, wrong,
    drawn: document.querySelectorAll("figure svg").length, absent: document.querySelectorAll("figure.absent").length,
    dark: matchMedia("(prefers-color-scheme: dark)").matches, background: style.backgroundColor, colour: style.color };
  const probe = document.createElement("script");
  probe.type = "application/json";
  probe.id = "seen";
  probe.textContent = JSON.stringify(seen);
  parent.document.body.append(probe);
});
</script>"#;

/// What a headless Chromium sees of a page; it may not complain about anything.
///
/// The page is in a frame, because a window is never narrower than 500 pixels.
fn look_at(page: &str, width: u32, dark: bool) -> Value {
    requirements::ensure(&["chromium"]).unwrap();
    let dir = Dir::new();
    let file = dir.0.join("report.html");
    let page = escape(&page.replace("</body>", &format!("{PROBE}</body>")));
    let frame = format!(r#"<iframe style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe>"#);
    fs::write(&file, format!("<!DOCTYPE html><body>{frame}</body>")).unwrap();
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-sync",
        ])
        .args(["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom"])
        // 0 is dark, 1 is light (mojom::PreferredColorScheme).
        .arg(format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 }))
        .arg("--window-size=1500,1000")
        .arg(format!("--user-data-dir={}", dir.0.join("profile").display()))
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    let (dom, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!log.contains("CONSOLE"), "the page complains:\n{log}");
    let seen = dom.split(r#"id="seen">"#).nth(1).and_then(|rest| rest.split("</script>").next());
    serde_json::from_str(seen.unwrap_or_else(|| panic!("the page was not shown:\n{log}"))).unwrap()
}

/// A directory that goes when the test does.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (id, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("pillion-report-{id}-{count}"));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
