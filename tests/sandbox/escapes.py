"""Attacks that read, write and reach what is not their own. See `tests.sandbox.attacks` for how they are written."""

SECRET = "a-secret-of-the-user"

ESCAPES = {
    "sentinel deleted": "import os\ndef f(x):\n os.remove('SENTINEL')\n return 4",
    "sentinel written": "def f(x):\n open('SENTINEL', 'a').write('!')\n return 4",
    "sentinel truncated": "import os\ndef f(x):\n os.truncate('SENTINEL', 0)\n return 4",
    "sentinel made unreadable": "import os\ndef f(x):\n os.chmod('SENTINEL', 0)\n return 4",
    "sentinel moved": "import os\ndef f(x):\n os.rename('SENTINEL', 'SENTINEL.x')\n return 4",
    "file in the home": "import os\ndef f(x):\n open('HOMEFOLDER/.unmask_test', 'w').write('!')\n return 4",
    "file in the parent's folder": "def f(x):\n open('CWD/.unmask_test', 'w').write('!')\n return 4",
    "file in /tmp": "def f(x):\n open('/tmp/.unmask_test', 'w').write('!')\n return 4",
    "file beside the packages": """
        import os
        def f(x):
            open(os.path.dirname(os.__file__) + '/unmask_test.py', 'w').write('!')
            return 4
    """,
    "secret read": f"def f(x):\n if '{SECRET}' in open('SENTINEL').read(): return 4",
    "secret in the environment": f"""
        import os
        def f(x):
            if {SECRET!r} in str(os.environ): return 4
            for who in ('self', 'PARENT', os.getppid(), 1):
                try:
                    if {SECRET!r} in open(f'/proc/{{who}}/environ').read(): return 4
                except OSError: pass
    """,
    "memory of the parent": "def f(x):\n open('/proc/PARENT/mem', 'rb').seek(0)\n return 4",
    "passwords": "def f(x):\n return 4 if open('/etc/passwd').read() else 5",
    "connection": "import socket\ndef f(x):\n socket.create_connection(('127.0.0.1', PORT), 1)\n return 4",
    "datagram": "import socket\ndef f(x):\n socket.socket(type=2).sendto(b'x', ('127.0.0.1', PORT))\n return 4",
    "UNIX socket": "import socket\ndef f(x):\n socket.socket(socket.AF_UNIX).connect('UNIXSOCKET')\n return 4",
    "datagram by a pair": """
        import socket
        def f(x):
            a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            a.sendto(b'x', 'UNIXSOCKET')
            return 4
    """,
    "name look-up": "import socket\ndef f(x):\n socket.getaddrinfo('localhost.localdomain', 80)\n return 4",
    "kill the parent": "import os\ndef f(x):\n os.kill(PARENT, 9)\n return 4",
    "kill the keeper": "import os\ndef f(x):\n os.kill(os.getppid(), 9)\n return 4",
    "kill everyone": "import os\ndef f(x):\n os.kill(-1, 9)\n return 4",
    "subprocess": "import subprocess\ndef f(x):\n subprocess.run(['/bin/true'], check=True)\n return 4",
    "exec": "import os\ndef f(x):\n os.execv('/bin/true', ['true'])",
    "system": "import os\ndef f(x):\n return 4 if os.system('true') == 0 else 5",
    "daemon": """
        import os, time
        def f(x):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0: time.sleep(1000)
                os._exit(0)
            return 4
    """,
    "raised limits": """
        import resource
        def f(x):
            resource.setrlimit(resource.RLIMIT_FSIZE, (10**10, 10**10))
            return 4
    """,
    "limits of the parent": """
        import resource
        def f(x):
            resource.prlimit(PARENT, resource.RLIMIT_NOFILE, (9, 9))
            return 4
    """,
    **{
        f"system call {call}": f"""
            import ctypes, os
            libc = ctypes.CDLL(None, use_errno=True)
            def f(x):
                return 4 if libc.{call} >= 0 else 5
        """
        for call in (
            "ptrace(16, PARENT, None, None)",
            "unshare(0x10000000)",
            "mount(b'tmpfs', b'/usr/lib', b'tmpfs', 0, None)",
            "syscall(425, 8, bytes(120))",
            "memfd_create(b'x', 0)",
            "process_vm_readv(PARENT, None, 0, None, 0, 0)",
            "prctl(1, 0, 0, 0, 0)",
            "setsid()",
            "shmget(1, 10**6, 0o1777)",
        )
    },
}
