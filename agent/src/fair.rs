//! How much of something each may have where all together want more than there is.

/// The most that each may have, so that all have no more than `rest` together: who has less keeps it. `usize::MAX` where there is
/// enough for all.
pub fn most_of_each(mut had: Vec<usize>, rest: usize) -> usize {
    had.sort_unstable();
    let (mut rest, mut others) = (rest, had.len());
    for of_one in had {
        if of_one > rest / others {
            return rest / others;
        }
        rest -= of_one;
        others -= 1;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_may_have_what_those_that_have_less_leave() {
        assert_eq!(most_of_each(vec![10, 500, 20], 130), 100);
        assert_eq!(most_of_each(vec![500, 500], 130), 65);
        assert_eq!(most_of_each(vec![10, 20], 130), usize::MAX);
        assert_eq!(most_of_each(vec![], 0), usize::MAX);
    }
}
