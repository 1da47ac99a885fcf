//! Whether the machine did anything else while it was measured.
//!
//! The load average says nothing here: the load alone keeps all cores busy. What counts is CPU time that went
//! elsewhere.

use super::cost::cpu::Spent;

/// Of one core. An idle machine's daemons take 1 to 2 %, and ticks blur a second by as much again. A tenth of a core, on two, would move a result by 5 %.
const OTHERS: f64 = 0.10;

/// Of one core. Stolen time stops what is measured in the midst of it: 2 % are enough to show in a p99.
const STOLEN: f64 = 0.02;

/// Why the measurement is not worth much; nothing when it is.
pub fn disturbance(spent: &Spent) -> Option<String> {
    let (others, stolen) = (spent.others / spent.wall, spent.stolen / spent.wall);
    if others > OTHERS {
        return Some(format!("other processes took {:.0} % of a core", others * 100.0));
    }
    (stolen > STOLEN).then(|| format!("the hypervisor took {:.0} % of a core", stolen * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(others: f64, stolen: f64) -> Spent {
        Spent { wall: 2.0, all: 3.0, apps: 1.0, mesh: 1.0, others, stolen }
    }

    #[test]
    fn what_others_take_disturbs_and_what_the_bed_takes_does_not() {
        assert_eq!(disturbance(&spent(0.1, 0.0)), None);
        assert_eq!(disturbance(&spent(0.3, 0.0)).unwrap(), "other processes took 15 % of a core");
        assert_eq!(disturbance(&spent(0.0, 0.1)).unwrap(), "the hypervisor took 5 % of a core");
    }
}
