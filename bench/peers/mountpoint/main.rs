//! Mountpoint for Amazon S3 out of its library: read-only, disk cache, metadata that never expires.
//! Its tool is not on crates.io (the crate of that name is an empty placeholder), so a benchmark builds this one.

use anyhow::Result;
use clap::Parser;
use mountpoint_s3_client::{config::AddressingStyle, user_agent::UserAgent};
use mountpoint_s3_fs::{
    data_cache::{CacheLimit, DataCacheConfig, DiskDataCacheConfig, ManagedCacheDir},
    fs::{CacheConfig, TimeToLive},
    fuse::config::{FuseOptions, FuseSessionConfig, MountPoint},
    memory::{effective_total_memory, CandidateSize, PagedPool},
    s3::config::{ClientConfig, PartConfig, Region, TargetThroughputSetting},
    s3::path::{Bucket, S3Path},
    MountpointConfig, Runtime, S3FilesystemConfig, Superblock, SuperblockConfig,
};

#[global_allocator] // as its own tool does; glibc's allocator would be unfair to its memory figure
static ALLOC: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
struct Args {
    bucket: String,
    dir: String,
    #[arg(long)]
    endpoint: String,
    #[arg(long)]
    cache: String,
    #[arg(long)]
    allow_other: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let part = PartConfig::with_part_size(8 << 20);
    let pool = PagedPool::config()
        .with_candidate_sizes([CandidateSize::new(part.read_size_bytes)])
        .with_memory_limit((effective_total_memory() as f64 * 0.95) as usize)
        .build();
    let client = ClientConfig {
        region: Region::new_user_specified("us-east-1".into()),
        endpoint_url: Some(args.endpoint),
        addressing_style: AddressingStyle::Path,
        dual_stack: false,
        transfer_acceleration: false,
        auth_config: Default::default(), // AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
        requester_pays: false,
        expected_bucket_owner: None,
        throughput_target: TargetThroughputSetting::Default,
        bind: None,
        part_config: part,
        user_agent: UserAgent::new(None),
        tls_config: None,
    }
    .create_client(pool.clone(), None)?;
    let runtime = Runtime::new(client.event_loop_group());

    let metadata = || CacheConfig::new(TimeToLive::Indefinite);
    let path = S3Path::new(Bucket::new(args.bucket)?, Default::default());
    let names = Superblock::new(
        client.clone(),
        path,
        SuperblockConfig { cache_config: metadata(), ..Default::default() },
    );
    let managed = ManagedCacheDir::new_from_parent_with_cache_key(&args.cache, None, true)?;
    let cache = DataCacheConfig {
        disk_cache_config: Some(DiskDataCacheConfig {
            cache_directory: managed.as_path_buf(),
            block_size: 1 << 20,
            limit: CacheLimit::default(),
        }),
        express_cache_config: None,
    };
    let options = FuseOptions { read_only: true, allow_other: args.allow_other, ..Default::default() };
    let session = FuseSessionConfig::new(MountPoint::new(&args.dir)?, options, 16)?;
    let files = S3FilesystemConfig { cache_config: metadata(), read_only: true, ..Default::default() };
    let result = MountpointConfig::new(session, files, cache)?
        .create_fuse_session(names, client, runtime, pool)?
        .join();
    drop(managed); // empties the cache, as its tool does
    result
}
