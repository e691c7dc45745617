"""Programs that try to do harm: all end contained, and none leaves a process behind (see ``Contained``)."""

import os
import socket
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from containment import SECRET, SMALL

from mftcoder.sandbox.outcome import MIB

CALL = """\
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    done = libc.syscall(number, *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    return 0 if done >= 0 else ctypes.get_errno()
"""


def test_a_harmless_program_is_not_disturbed(contained):
    outcome = contained(
        "import os, sys, pathlib, socket, threading\n"
        "pathlib.Path('deep/er').mkdir(parents=True); pathlib.Path('deep/er/file').write_text('x' * 10000)\n"
        "pathlib.Path('/tmp/other').write_text('y'); a, b = socket.socketpair(); a.send(b'z')\n"
        "t = threading.Thread(target=lambda: print('thread')); t.start(); t.join()\n"
        "print(b.recv(1), sys.stdin.read()); print('caf\\u00e9', file=sys.stderr); sys.exit(7)"
    )
    assert (outcome.reason, outcome.exit_code) == ("failed", 7)
    assert outcome.stdout == "thread\nb'z' \n"
    assert outcome.stderr == "café\n"
    assert outcome.cpu_seconds > 0
    assert outcome.peak_bytes > MIB


# Time


def test_sleeping_for_ever(contained):
    outcome = contained("import time; time.sleep(1e6)", limits=replace(SMALL, wall_seconds=0.5))
    assert outcome.reason == "time"
    assert outcome.exit_code is None


def test_computing_for_ever(contained):
    outcome = contained("while True: pass", limits=replace(SMALL, cpu_seconds=0.3))
    assert outcome.reason == "time"
    assert outcome.cpu_seconds < 2


def test_computing_in_ever_new_processes(contained):
    program = "import os\nwhile True:\n if os.fork() == 0:\n  sum(range(10**6)); os._exit(0)\n os.wait()"
    assert contained(program, limits=replace(SMALL, cpu_seconds=0.5)).reason == "time"


def test_ignoring_signals(contained):
    program = (
        "import signal, time\n"
        "for n in range(1, 65):\n"
        "  try: signal.signal(n, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\n"
        "while True: time.sleep(0.01)"
    )
    assert contained(program, limits=replace(SMALL, wall_seconds=0.7)).reason == "time"


def test_stopping_oneself(contained):
    program = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    assert contained(program, limits=replace(SMALL, wall_seconds=0.5)).reason == "time"


def test_closing_the_output_and_waiting(contained):
    program = "import os, time\nos.close(1); os.close(2); time.sleep(1e6)"
    assert contained(program, limits=replace(SMALL, wall_seconds=0.5)).reason == "time"


def test_closing_the_output_and_ending(contained):
    assert contained("import os; os.close(1); os.close(2); os._exit(0)").ok


# Processes


def test_fork_bomb(contained):
    program = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"
    assert contained(program, limits=replace(SMALL, cpu_seconds=0.4)).reason == "time"


def test_processes_are_limited(contained):
    program = (
        "import os, time\n"
        "n = 0\n"
        "try:\n"
        "  for _ in range(200):\n"
        "    if os.fork() == 0: time.sleep(1e6)\n"
        "    n += 1\n"
        "finally: os.write(1, str(n).encode())"
    )
    outcome = contained(program)
    assert outcome.reason == "failed"
    assert SMALL.processes - 8 <= int(outcome.stdout) <= SMALL.processes


def test_threads_are_limited(contained):
    program = (
        "import _thread, time, os\n"
        "n = 0\n"
        "try:\n"
        "  for _ in range(200): _thread.start_new_thread(time.sleep, (1e6,)); n += 1\n"
        "except RuntimeError: os.write(1, str(n).encode()); os._exit(3)"
    )
    outcome = contained(program, limits=replace(SMALL, memory_bytes=1024 * MIB))
    assert outcome.exit_code == 3
    assert int(outcome.stdout) <= SMALL.processes


@pytest.mark.parametrize("closed", ["", "os.close(1); os.close(2)"])
def test_leaving_children_behind(contained, closed):
    program = (
        "import os, time\n"
        "for _ in range(4):\n"
        "  if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    if os.fork() == 0:\n      {closed or 'pass'}\n      time.sleep(1e6)\n"
        "    os._exit(0)\n"
        "time.sleep(0.2); print('done')"
    )
    outcome = contained(program)
    assert outcome.ok
    assert outcome.stdout == "done\n"
    assert outcome.seconds < SMALL.wall_seconds


def test_killing_others(contained):
    program = (
        "import os, signal\n"
        "for pid in (1, os.getppid(), -1):\n"
        "  try: os.kill(pid, signal.SIGKILL)\n"
        "  except OSError: pass\n"
        "for pid in range(2, 3000):\n"
        "  if pid != os.getpid():\n"
        "    try: os.kill(pid, signal.SIGKILL)\n"
        "    except ProcessLookupError: pass\n"
        "print('alive')"
    )
    outcome = contained(program)
    assert outcome.ok
    assert outcome.stdout == "alive\n"


def test_tracing_and_reading_others(contained):
    program = CALL + (
        "ptrace, process_vm_readv = (101, 310) if os.uname().machine == 'x86_64' else (117, 270)\n"
        "print(call(ptrace, 16, 1, 0, 0), call(ptrace, 0, 0, 0, 0), call(process_vm_readv, 1, 0, 0, 0, 0, 0))\n"
        "for name in ('mem', 'environ', 'fd', 'root'):\n"
        "  try: (os.listdir if name in ('fd', 'root') else open)(f'/proc/1/{name}'); print('open', name)\n"
        "  except OSError: pass"
    )
    lines = contained(program).stdout.splitlines()
    assert lines[0] == "1 1 1"  # EPERM
    # bubblewrap's pid 1 runs as the program does, in the same namespaces, and holds no secret
    assert set(lines[1:]) <= {"open environ", "open fd", "open root", "open mem"}


# Memory and disk


def test_memory_bomb(contained):
    outcome = contained("x = []\nwhile True: x.append(bytearray(2**22))")
    assert outcome.reason in ("failed", "memory")
    assert outcome.peak_bytes < 1.2 * SMALL.memory_bytes


@pytest.mark.parametrize("memory", ["bytearray(b'x' * 40_000_000)", "mmap.mmap(-1, 40_000_000)"])
def test_memory_of_many_processes(contained, memory):
    program = (
        "import mmap, os, time\n"
        "for _ in range(6):\n"
        "  if os.fork() == 0:\n"
        f"    m = {memory}\n"
        "    for at in range(0, 40_000_000, 4096): m[at] = 1\n"
        "    time.sleep(1e6)\n"
        "time.sleep(1e6)"
    )
    assert contained(program).reason == "memory"


def test_shared_memory_of_one_process(contained):
    program = "import mmap\nx = []\nwhile True:\n m = mmap.mmap(-1, 2**22); m[:] = b'x' * 2**22; x.append(m)"
    assert contained(program).reason == "memory"


def test_memory_that_belongs_to_no_process(contained):
    program = CALL + (
        "x86 = os.uname().machine == 'x86_64'\n"
        "memfd, secret, shmget, msgget = (319, 447, 29, 68) if x86 else (279, 447, 194, 186)\n"
        "print([call(memfd, b'x', 0), call(secret, 0), call(shmget, 0, 4096, 0o1600), call(msgget, 0, 0o1600)])"
    )
    assert contained(program).stdout == "[38, 1, 1, 1]\n"  # ENOSYS, EPERM


def test_huge_sparse_files(contained):
    program = "import os\nf = open('big', 'wb')\ntry: f.truncate(2**40)\nexcept OSError: print('no', f.tell())"
    outcome = contained("import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + program)
    assert outcome.stdout == "no 0\n"
    assert contained("import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n" + program).signal == 25


def test_filling_the_disk(contained):
    program = (
        "import os\n"
        "total = 0\n"
        "try:\n"
        "  for n in range(1000):\n"
        "    with open(f'/tmp/{n}', 'wb', 0) as f: total += f.write(b'x' * 2**20)\n"
        "except OSError as error: print(total, error.errno)"
    )
    total, errno = map(int, contained(program).stdout.split())
    assert total <= SMALL.disk_bytes
    assert errno == 28


def test_ever_more_files(contained):
    program = "n = 0\nwhile n < 10**6:\n n += 1; open(str(n), 'w').close()"
    outcome = contained(program, limits=replace(SMALL, cpu_seconds=30))
    assert outcome.reason == "files" or "No space left" in outcome.stderr


def test_opening_thousands_of_files(contained):
    program = "import os\nx = []\ntry:\n while True: x.append(os.open('/dev/null', 0))\nexcept OSError: print(len(x))"
    assert int(contained(program).stdout) < SMALL.open_files


def test_deep_recursion(contained):
    program = "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n  def __repr__(self): return repr(self)\nrepr(A())"
    assert contained(program).reason in ("failed", "memory")


# Output


@pytest.mark.parametrize("descriptor", [1, 2])
def test_endless_output(contained, descriptor):
    outcome = contained(f"import os\nwhile True: os.write({descriptor}, b'x' * 4096)")
    assert outcome.reason == "output"
    assert len(outcome.stdout + outcome.stderr) <= SMALL.output_bytes


def test_output_that_is_no_text(contained):
    outcome = contained("import os; os.write(1, b'\\xff\\xfe\\x00')")
    assert outcome.ok
    assert outcome.stdout == "\ufffd\ufffd\x00"


# What is there to see


def test_reading_the_environment(contained):
    program = (
        "import os, glob\n"
        "seen = ' '.join(os.environ.values())\n"
        "for path in glob.glob('/proc/[0-9]*/*', recursive=True):\n"
        "  try: seen += open(path, errors='replace').read(10**6) if path.endswith(('environ', 'cmdline')) else ''\n"
        "  except OSError: pass\n"
        "print(seen)"
    )
    assert SECRET not in contained(program).stdout


def test_other_processes_are_out_of_sight(contained):
    program = "import os; print(*sorted(int(n) for n in os.listdir('/proc') if n.isdigit()))"
    assert len(contained(program).stdout.split()) <= 3
    assert str(os.getpid()) not in contained(program).stdout.split()


def test_home_and_the_rest_of_the_disk(contained):
    with tempfile.NamedTemporaryFile() as secret:
        paths = [
            secret.name,
            str(Path.home()),
            __file__,
            "/etc/shadow",
            "/etc/ssh",
            "/var/log",
            "/sys",
            "/boot",
            "/root/.ssh",
        ]
        program = "import os, sys\nfor p in sys.argv[1:]:\n  if os.path.exists(p) and os.listdir(p): print(p)"
        known = str(Path.home())
        assert contained(program, *paths[:1], *paths[2:]).stdout == ""
        shown = contained(
            "import os, sys\nif os.path.isdir(sys.argv[1]): print(*os.listdir(sys.argv[1]))", known
        ).stdout
        assert set(shown.split()) <= {".pyenv"}  # a folder above a toolchain holds that alone


def test_writing_outside_of_the_folder(contained):
    with tempfile.TemporaryDirectory() as folder:
        program = (
            "import os, sys\n"
            "for place in sys.argv[1:]:\n"
            "  try: open(place + '/mftcoder-was-here', 'w').close(); print(place)\n"
            "  except OSError: pass"
        )
        places = [folder, str(Path.home()), "/usr", "/etc", "/dev", "/proc", "/proc/sys/kernel", "/", "/tmp"]
        assert contained(program, *places).stdout == "/tmp\n"
        assert not Path("/tmp/mftcoder-was-here").exists()


def test_links_out_of_the_folder(contained):
    with tempfile.NamedTemporaryFile() as secret:
        program = (
            "import os, sys\n"
            "secret = sys.argv[1]\n"
            "for n, target in enumerate([*sys.argv[1:], '../../../../..' + secret, '/proc/1/root' + secret]):\n"
            "  os.symlink(target, f'link{n}')\n"
            "  try: print(open(f'link{n}', 'rb').read())\n"
            "  except OSError: pass\n"
            "disk = os.makedev(8, 0)\n"
            "for what in (lambda: os.link('/usr/bin/env', 'hard'), lambda: os.mknod('disk', 0o60666, disk),\n"
            "             lambda: os.mknod('null', 0o20666, os.makedev(1, 3)), lambda: os.chroot('.')):\n"
            "  try: what(); print('done')\n"
            "  except OSError: pass\n"
            "os.mkfifo('pipe'); os.mkdir('...'); open('a\\nb', 'w').close()"
        )
        outcome = contained(program, secret.name, "/etc/shadow", "/dev/sda", "/dev/vda", "/dev/mem")
    assert outcome.ok
    assert outcome.stdout == ""


# Network


def test_network(contained):
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX) as named,
    ):
        udp.bind(("127.0.0.1", 0))
        abstract.bind("\0mftcoder-test")
        named.bind(f"{folder}/socket")
        for server in (tcp, abstract, named):
            server.listen()
            server.settimeout(0.1)
        udp.settimeout(0.1)
        program = (
            "import socket, sys\n"
            "def attempt(name, what):\n"
            "  try: what(); print(name)\n"
            "  except OSError: pass\n"
            "tcp, udp, named = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]\n"
            "S = socket\n"
            "attempt('tcp', lambda: S.create_connection(('127.0.0.1', tcp), 2))\n"
            "attempt('out', lambda: S.create_connection(('192.0.2.1', 80), 2))\n"
            "attempt('tcp6', lambda: S.create_connection(('::1', tcp), 2))\n"
            "try: S.socket(S.AF_INET, S.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', udp))\n"
            "except OSError: pass\n"
            "attempt('dns', lambda: S.getaddrinfo('example.com', 80))\n"
            "attempt('abstract', lambda: S.socket(S.AF_UNIX).connect('\\0mftcoder-test'))\n"
            "attempt('unix', lambda: S.socket(S.AF_UNIX).connect(named))\n"
            "for family in (16, 17, 38, 40): attempt(family, lambda: S.socket(family, S.SOCK_RAW))\n"
        )
        outcome = contained(program, str(tcp.getsockname()[1]), str(udp.getsockname()[1]), f"{folder}/socket")
        assert outcome.ok
        assert outcome.stdout == ""
        for server in (tcp, abstract, named):
            with pytest.raises(TimeoutError):
                server.accept()
        with pytest.raises(TimeoutError):
            udp.recv(1)


# Privileges


def test_raising_limits(contained):
    program = (
        "import resource\n"
        "for name in dir(resource):\n"
        "  if name.startswith('RLIMIT_'):\n"
        "    kind = getattr(resource, name); soft, hard = resource.getrlimit(kind)\n"
        "    if hard == resource.RLIM_INFINITY: continue\n"
        "    try: resource.setrlimit(kind, (hard + 1, hard + 1)); print(name)\n"
        "    except (OSError, ValueError): pass\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[1])"
    )
    assert contained(program).stdout == f"{SMALL.open_files}\n"


def test_mounts_namespaces_and_the_kernel(contained):
    program = CALL + (
        "x86 = os.uname().machine == 'x86_64'\n"
        "numbers = [165, 272, 308, 161, 155, 321, 298, 250, 169]\n"
        "if not x86: numbers = [40, 97, 268, 51, 41, 280, 241, 219, 142]\n"
        "print({call(number, 0x10000000, 0, 0, 0, 0) for number in numbers})\n"
        "print(call(56 if x86 else 220, 0x10000011, 0, 0, 0, 0), call(435, 0, 0), call(425, 8, 0))\n"
        "print(os.system('mount -t tmpfs none /tmp 2>/dev/null; unshare -r true 2>/dev/null || exit 5') >> 8)"
    )
    assert contained(program).stdout == "{1}\n1 38 38\n5\n"


def test_changing_the_user(contained):
    program = (
        "import os\n"
        "for change in (os.setuid, os.setgid, os.seteuid):\n"
        "  for other in (0, 1, 65534):\n"
        "    try: change(other); print(other)\n"
        "    except OSError: pass\n"
        "try: os.write(os.open('/proc/self/uid_map', os.O_WRONLY), b'0 0 1')\n"
        "except OSError: print('no')"
    )
    assert contained(program).stdout == "no\n"


def test_the_sandbox_is_as_good_as_new_after_all_that(contained):
    outcome = contained("import os; print(os.listdir('.') == [os.path.basename(__file__)], os.listdir('/tmp'))")
    assert outcome.ok
    assert outcome.stdout == "True []\n"
