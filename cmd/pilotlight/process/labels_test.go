package process

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestProgram(t *testing.T) {
	for _, tc := range []struct{ exe, cmdline, want string }{
		{"/usr/bin/python3.11", "python3 app.py", "app.py"},
		{"/usr/bin/python3.11", "python3 /srv/my/app.py --port 80", "app.py"},
		{"/usr/bin/python3.11", "python3 -X dev -W ignore app.py", "app.py"},
		{"/usr/bin/python3.11", "python3 -Xdev -Wignore -OO app.py", "app.py"},
		{"/usr/bin/python3.11", "python3 -uBW ignore app.py", "app.py"},
		{"/usr/bin/python3.11", "python3 --check-hash-based-pycs never app.py", "app.py"},
		{"/usr/bin/python3.11", "python3 -m http.server 8000", "http.server"},
		{"/usr/bin/python3.11", "python3 -um uvicorn app:main", "uvicorn"},
		{"/usr/bin/python3.11", "python3 -mpkg.mod", "pkg.mod"},
		{"/usr/bin/python3.11", "python3 -m", ""},
		{"/usr/bin/python3.11", "python3 -c pass app.py", ""},
		{"/usr/bin/python3.11", "python3 -Ic pass app.py", ""},
		{"/usr/bin/python3.11", "python3 -", ""},
		{"/usr/bin/python3.11", "python3", ""},
		{"/usr/bin/python3.11", "python3 -- -odd.py", "-odd.py"},
		{"/usr/bin/python3.11", "python3 .", ""},
		{"/usr/bin/python3.11", "/usr/bin/python3 /usr/local/bin/gunicorn app:app", "gunicorn"},
		{"/opt/venv/bin/python", "python app.py", "app.py"},
		{"/usr/bin/pypy3", "pypy3 app.py", "app.py"},
		{"/usr/bin/python3-config", "python3-config x", ""},
		{"/usr/bin/node", "node server.js", "server.js"},
		{"/usr/bin/node", "node --max-old-space-size=4096 --enable-source-maps dist/server.js", "server.js"},
		{"/usr/bin/node", "node -r dotenv/config --import ./i.mjs server.js", "server.js"},
		{"/usr/bin/node", "node --require=dotenv/config server.js", "server.js"},
		{"/usr/bin/node", "node -e 1 x.js", ""},
		{"/usr/bin/node", "node --eval 1 x.js", ""},
		{"/usr/bin/node", "node .", ""},
		{"/usr/bin/nodejs", "nodejs /a/b.js", "b.js"},
		{"/usr/bin/ruby3.1", "ruby -W0 -I lib -r set bin/app.rb", "app.rb"},
		{"/usr/bin/ruby3.1", "ruby -S rake", "rake"},
		{"/usr/bin/ruby3.1", "ruby -ne puts", ""},
		{"/usr/bin/perl", "perl -wT -I lib -MData::Dumper /usr/bin/ack x", "ack"},
		{"/usr/bin/perl5.36.0", "perl -lane print", ""},
		{"/usr/bin/php8.2", "php -d memory_limit=1G artisan queue:work", "artisan"},
		{"/usr/bin/php8.2", "php -f worker.php", "worker.php"},
		{"/usr/bin/php8.2", "php -S 0:80 -t public router.php", "router.php"},
		{"/usr/bin/php8.2", "php -r 1;", ""},
		{"/usr/sbin/php-fpm8.2", "php-fpm: master process (/etc/php/8.2/fpm.conf)", ""},
		{"/usr/bin/bash", "bash /opt/run.sh", "run.sh"},
		{"/usr/bin/bash", "bash -eux -o pipefail run.sh", "run.sh"},
		{"/usr/bin/bash", "bash -euxo pipefail run.sh", "run.sh"},
		{"/usr/bin/bash", "bash +o history --rcfile x run.sh", "run.sh"},
		{"/usr/bin/bash", "bash -ec true run.sh", ""},
		{"/usr/bin/bash", "-bash", ""},
		{"/usr/bin/dash", "/bin/sh -e /usr/bin/x", "x"},
		{"/usr/bin/dash", "sh -s x", ""},
		{"/bin/busybox", "/bin/sh /start.sh", "start.sh"},
		{"/bin/busybox", "sleep 10", ""},
		{"", "/usr/bin/python3 app.py", "app.py"},
		{"/usr/lib/jvm/17/bin/java", "java -jar /opt/x.jar", "x.jar"},
		{"/usr/lib/jvm/17/bin/java", "java -Xmx1g -XX:+UseG1GC -Da=b -javaagent:a.jar -jar /opt/x.jar -cp y", "x.jar"},
		{"/usr/lib/jvm/17/bin/java", "java -cp a.jar:b.jar com.example.Main arg", "Main"},
		{"/usr/lib/jvm/17/bin/java", "java -classpath a --add-opens java.base/java.lang=ALL-UNNAMED --add-exports=x=y org.apache.zookeeper.server.quorum.QuorumPeerMain zoo.cfg", "QuorumPeerMain"},
		{"/usr/lib/jvm/17/bin/java", "java -p mods -m com.app/com.app.Main x", "Main"},
		{"/usr/lib/jvm/17/bin/java", "java --module=com.app", "app"},
		{"/usr/lib/jvm/17/bin/java", "java @options Hello.java", "Hello.java"},
		{"/usr/lib/jvm/17/bin/java", "java -version", ""},
		{"/usr/lib/jvm/17/bin/java", "java -jar", ""},
		{"/usr/sbin/nginx", "nginx -g daemon off;", ""},
		{"/usr/bin/gcc-12", "gcc x.c", ""},
	} {
		if got := program(tc.exe, strings.Fields(tc.cmdline)); got != tc.want {
			t.Errorf("%s: %s\ngot %q, want %q", tc.exe, tc.cmdline, got, tc.want)
		}
	}
}

func TestLabels(t *testing.T) {
	long := strings.Repeat("é", 600)
	for _, tc := range []struct {
		name string
		p    Process
		want string
	}{
		{"nothing known", Process{}, `service_name="unknown"`},
		{"a name only", Process{Comm: "x"}, `service_name="x"`},
		{"kernel thread", Process{Comm: "kswapd0", KernelThread: true, Cgroup: Cgroup{Path: "/a"}}, `service_name="kernel"`},
		{"executable", Process{Comm: "y", Exe: "/usr/bin/x", Cmdline: []string{"z"}}, `exe="/usr/bin/x" service_name="x"`},
		{"no executable", Process{Comm: "y", Cmdline: []string{"/bin/z"}}, `service_name="z"`},
		{"script", Process{Comm: "y", Exe: "/usr/bin/python3", Cmdline: []string{"python3", "a.py"}, Program: "a.py"}, `exe="/usr/bin/python3" service_name="a.py"`},
		{"script, gone before its command line was read", Process{Comm: "a.py", Exe: "/usr/bin/python3.11"}, `exe="/usr/bin/python3.11" service_name="a.py"`},
		{"interpreter, gone before its command line was read", Process{Comm: "python3", Exe: "/usr/bin/python3.11"}, `exe="/usr/bin/python3.11" service_name="python3.11"`},
		{"memfd", Process{Comm: "runc:[2:INIT]", Exe: "/memfd:runc_cloned:/proc/self/exe"}, `exe="/memfd:runc_cloned:/proc/self/exe" service_name="runc:[2:INIT]"`},
		{"unit", Process{Exe: "/x", Program: "y", Cgroup: Cgroup{Path: "/s/a@b.service", Unit: "a@b.service"}},
			`cgroup="/s/a@b.service" exe="/x" service_name="a@b" unit="a@b.service"`},
		{"a container without name gives no name", Process{Exe: "/x", Cgroup: Cgroup{Path: "/docker/1", ContainerID: "1"}},
			`cgroup="/docker/1" container_id="1" exe="/x" service_name="x"`},
		{"a container with name", Process{Exe: "/x", Cgroup: Cgroup{Path: "/lxc/w/a.service", ContainerName: "w", Unit: "a.service"}},
			`cgroup="/lxc/w/a.service" container_name="w" exe="/x" service_name="w" unit="a.service"`},
		{"a container whose runtime was asked", Process{Exe: "/x", Cgroup: Cgroup{Path: "/kubepods/1", ContainerID: "1", ContainerName: "server", Pod: "api-7d9", Namespace: "shop"}},
			`cgroup="/kubepods/1" container_id="1" container_name="server" exe="/x" namespace="shop" pod="api-7d9" service_name="server"`},
		{"its own name", Process{Exe: "/x", OTelService: "shop", Cgroup: Cgroup{Path: "/lxc/w", ContainerName: "w"}},
			`cgroup="/lxc/w" container_name="w" exe="/x" service_name="shop"`},
		{"not UTF-8", Process{Exe: "/\xff\xfe/\xc3x"}, "exe=\"/\uFFFD/\uFFFDx\" service_name=\"\uFFFDx\""},
		{"too long", Process{Comm: "a" + long}, fmt.Sprintf("service_name=%q", "a"+long[:maxLabelValue-2])},
	} {
		var got []string
		for _, l := range tc.p.Labels() {
			got = append(got, fmt.Sprintf("%s=%q", l.Name, l.Value))
			if !utf8.ValidString(l.Value) || len(l.Value) > maxLabelValue {
				t.Errorf("%s: value %q", tc.name, l.Value)
			}
		}
		if s := strings.Join(got, " "); s != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tc.name, s, tc.want)
		}
	}
}

func TestMeta(t *testing.T) {
	p := Process{Key: Key{PID: 42}, PPID: 7, Exe: "/usr/bin/app", Cmdline: []string{"app", "--x", "\xff"}, Cgroup: Cgroup{Path: "/a.slice"}}
	want := []Label{
		{"__meta_process_pid", "42"}, {"__meta_process_ppid", "7"}, {"__meta_process_cmdline", "app --x \uFFFD"},
		{"__meta_process_cgroup", "/a.slice"}, {"__meta_process_executable_name", "app"},
	}
	if got := p.Meta(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	kernel := Process{Key: Key{PID: 2}, KernelThread: true}
	if got := kernel.Meta(); !slices.Equal(got, []Label{{"__meta_process_pid", "2"}, {"__meta_process_ppid", "0"}}) {
		t.Errorf("kernel thread: %q", got)
	}
}
