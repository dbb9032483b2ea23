"""OpenStack Swift in one process: a real S3 store for tests.

    python swift_server.py FOLDER S3_PORT

serves S3 on S3_PORT (account `test`, access key `test:tester`, secret `testing`), and on another
port the same account's own API without any authorization, for tests to look behind the scenes.
When it is ready, that port stands in FOLDER/open-port. It ends when its standard input does.
"""

import warnings

warnings.filterwarnings("ignore")  # eventlet says that it is not for new projects

import eventlet  # noqa: E402

eventlet.monkey_patch()

import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from eventlet import wsgi  # noqa: E402
from eventlet.green import os as green_os  # noqa: E402
from swift.common import utils  # noqa: E402

DEFAULTS = """[DEFAULT]
swift_dir = {etc}
devices = {devices}
mount_check = false
log_level = ERROR
fallocate_reserve = 0
disable_fallocate = true
"""
STORAGE = """[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
PROXY = """[pipeline:main]
pipeline = {pipeline} proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:container_quotas]
use = egg:swift#container_quotas
[filter:s3api]
use = egg:swift#s3api
storage_domain = localhost
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:symlink]
use = egg:swift#symlink
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
"""
S3 = "catch_errors cache s3api tempauth copy container_quotas symlink slo dlo versioned_writes"
OPEN = "catch_errors cache copy container_quotas slo"


def main(folder: Path, s3_port: int) -> None:
    """Serve until standard input ends."""
    etc, devices = folder / "etc", folder / "srv"
    etc.mkdir(parents=True, exist_ok=True)
    (devices / "disk").mkdir(parents=True, exist_ok=True)
    (etc / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n"
        "[storage-policy:0]\nname = one\ndefault = yes\n"
    )
    utils.SWIFT_CONF_FILE = str(etc / "swift.conf")
    # Only now: these read that file.
    from swift.common.ring import RingBuilder
    from swift.common.wsgi import loadapp

    defaults = DEFAULTS.format(etc=etc, devices=devices)
    storage = ("account", "container", "object")
    listeners = {name: eventlet.listen(("127.0.0.1", 0), backlog=512) for name in storage}
    for name in storage:
        builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
        builder.add_dev(
            {
                "id": 0,
                "region": 1,
                "zone": 1,
                "ip": "127.0.0.1",
                "port": listeners[name].getsockname()[1],
                "device": "disk",
                "weight": 1.0,
                "meta": "",
            }
        )
        builder.rebalance()
        builder.get_ring().save(str(etc / f"{name}.ring.gz"))
        (etc / f"{name}.conf").write_text(defaults + STORAGE.format(name=name))
    listeners["s3"] = eventlet.listen(("127.0.0.1", s3_port), backlog=512)
    listeners["open"] = eventlet.listen(("127.0.0.1", 0), backlog=512)
    for name, pipeline in (("s3", S3), ("open", OPEN)):
        (etc / f"{name}.conf").write_text(defaults + PROXY.format(pipeline=pipeline))
    for name, listener in listeners.items():
        app = loadapp(str(etc / f"{name}.conf"), global_conf={"swift_dir": str(etc)})
        eventlet.spawn(wsgi.server, listener, app, log_output=False, max_size=256)
    ready = folder / "open-port.new"
    ready.write_text(str(listeners["open"].getsockname()[1]))
    os.replace(ready, folder / "open-port")
    os.set_blocking(0, False)
    green_os.read(0, 1)  # nothing comes: the process that started us is gone


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
