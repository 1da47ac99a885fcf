//! Nothing of a captured pod goes plain because somebody does not know better: an agent that has lost a pod's object, cannot
//! enter the pod, or cannot tell the kernel what is new, keeps what is in force, says so, and tries again.

mod effects;
mod objects;
mod places;
mod restarts;
mod scene;
