use benches::{Contender, Governor, Ours, run, warm_up};
fn main(){ let a: Vec<String> = std::env::args().collect(); let keys: u64 = a[2].parse().unwrap(); let n: u64 = a[3].parse().unwrap();
 if a[1]=="ours" { let o=Ours::new(false); warm_up(&o,keys); println!("{:?}", run(&o,keys,1,n)); } else { let o=Governor::new(false); warm_up(&o,keys); println!("{:?}", run(&o,keys,1,n)); } }
