#!/bin/bash
# What an administrator does with the package, on a machine of its own: installs it, looks, installs it again over itself,
# removes it, installs it again, purges it. Each line that it prints begins with a word for the test that started it:
# ok, FAILED, or note. It is called by a unit of systemd, which powers the machine off after it.
set -u
deb=/root/pilotlight.deb
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive

ok() { echo "ok: $1"; }
failed() {
	echo "FAILED: $1"
	systemctl status --no-pager --full --lines=0 'pilotlight*' 2>&1 | sed 's/^/note: /'
	journalctl --no-pager -b -u 'pilotlight*' -n 30 2>&1 | sed 's/^/note: /'
}
# is NAME COMMAND: the command, a line of shell, succeeds, if need be after a while.
is() {
	local i
	for ((i = 0; i < 60; i++)); do
		if eval "$2" >/run/said 2>&1; then
			ok "$1"
			return
		fi
		sleep 1
	done
	sed 's/^/note: /' /run/said
	failed "$1"
}

get() {
	exec 3<>/dev/tcp/127.0.0.1/7100 || return 1
	printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1:7100\r\n\r\n' "$1" >&3
	cat <&3
	exec 3>&-
}
got() { get "$1" | tr -d '\0' | grep -q "$2"; }
served() { get /metrics >/run/metrics && grep -q '^pilotlight_samples_taken_total' /run/metrics; }
sampled() { pilotlight query labels --values exe --from now-1h | grep -qx "$1"; }
privileges() { # of the process that systemd started for a unit
	local pid
	pid=$(systemctl show --value -p MainPID "$1")
	# CAP_BPF 39, CAP_PERFMON 38, CAP_SYS_PTRACE 19, CAP_DAC_READ_SEARCH 2, CAP_CHECKPOINT_RESTORE 40, CAP_SYSLOG 34
	grep -qx 'CapEff:	000001c400080004' "/proc/$pid/status" &&
		grep -qx 'CapBnd:	000001c400080004' "/proc/$pid/status" &&
		grep -qx 'NoNewPrivs:	1' "/proc/$pid/status" &&
		grep -qx 'Seccomp:	2' "/proc/$pid/status" &&
		[ "$(stat -c %U "/proc/$pid")" = pilotlight ]
}
children() { # none of those of a unit's process has a capability
	local pid child=
	pid=$(systemctl show --value -p MainPID "$1")
	for child in $(cat "/proc/$pid/task"/*/children); do
		grep -qx 'CapEff:	0000000000000000' "/proc/$child/status" || return 1
	done
	[ -n "$child" ]
}

# All that is on the disk, but for what dpkg, the journal and this script write, and for copies of /etc/passwd.
files() {
	find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /root -o -path /var/lib/dpkg \
		-o -path /var/log -o -path /var/tmp -o -path /etc/passwd- -o -path /etc/group- -o -path /etc/shadow- -o -path /etc/gshadow- \
		-o -path /etc/.pwd.lock \) -prune -o -printf '%p %y %m %u %g %s %l\n' | grep -Ev '^(/|/etc|/etc/systemd/system|/etc/systemd/system/multi-user.target.wants|/var/lib/systemd) d' | sort
}

echo "note: $(uname -r), $(systemctl --version | head -1)"
systemctl is-system-running --wait >/run/said || true
echo "note: the machine is $(cat /run/said)"
files >/run/before
getent passwd >/run/passwd.before

# --- installed
dpkg -i $deb >/run/dpkg 2>&1 && ok "dpkg installs it" || { sed 's/^/note: /' /run/dpkg; failed "dpkg installs it"; }
is "the unit is active" 'systemctl is-active pilotlight.service'
is "the unit is enabled" 'systemctl is-enabled pilotlight.service'
is "agent and server are not" '! systemctl is-enabled pilotlight-agent.service pilotlight-server.service'
is "it is ready" "got /-/ready '200 OK'"
is "the page is served" "got / '<title>Pilotlight'"
is "the binary says that it is healthy" 'pilotlight health'
is "the sampler has the six capabilities and no other" 'privileges pilotlight.service'
is "what it starts has none" 'children pilotlight.service'
bash -c 'while :; do :; done' &
load=$!
is "a program is sampled" 'sampled /usr/bin/bash'
kill $load
is "metrics are served" 'served'
missing=
for name in $(grep -o 'pilotlight_[a-z_]*' /usr/share/doc/pilotlight/monitoring/* -h | sed -E 's/_(bucket|count|sum)$//' | sort -u); do
	case $name in
	# The agent's that sends to a server.
	pilotlight_spool_* | pilotlight_send_* | pilotlight_config_* | pilotlight_sampling) ;;
	*) grep -q "^# TYPE $name " /run/metrics || missing+=" $name" ;;
	esac
done
[ -z "$missing" ] && ok "dashboard and alerts ask for what is served" || failed "metrics that are not served:$missing"
is "the kernel's functions have names" "! journalctl --no-pager -b -u pilotlight.service | grep 'kernel functions will have no names'"
is "the log has no errors" "! grep -E 'level=ERROR' <(journalctl --no-pager -b -u pilotlight.service)"
echo "note: $(systemctl show -p MemoryCurrent,CPUUsageNSec,TasksCurrent pilotlight.service | tr '\n' ' ')"
echo "note: $(systemd-analyze security --no-pager pilotlight.service | tail -1)"

# --- killed: a service that is gone comes back by itself
kill -9 "$(systemctl show --value -p MainPID pilotlight.service)"
is "it comes back after kill -9" 'test "$(sleep 8; systemctl show --value -p NRestarts pilotlight.service)" = 1'
is "it is ready again" "got /-/ready '200 OK'"

# --- told to read its configuration again, and standing still: the service manager ends what gives no sign of life
before=$(systemctl show --value -p MainPID pilotlight.service)
echo 'read_environ: false' >/etc/pilotlight.yaml
is "it is reloaded" 'systemctl reload pilotlight.service'
is "it has read its configuration" "journalctl --no-pager -b -u pilotlight.service | grep -q 'configuration read.*/etc/pilotlight.yaml'"
is "by the same process" 'test "$(systemctl show --value -p MainPID pilotlight.service)" = "$before"'
rm /etc/pilotlight.yaml
kill -STOP "$(pgrep -P "$before" -f store-half)"
is "the watchdog ends it" 'sleep 2; journalctl --no-pager -b -u pilotlight.service | grep -q "Watchdog timeout"'
is "it is ready after that as well" "sleep 1; got /-/ready '200 OK'"

# --- upgraded
echo '#kept' >>/etc/default/pilotlight
before=$(systemctl show --value -p MainPID pilotlight.service)
dpkg -i --force-confold $deb >/run/dpkg 2>&1 && ok "dpkg installs it over itself" || failed "dpkg installs it over itself"
is "it was restarted" 'test "$(systemctl show --value -p MainPID pilotlight.service)" != "$before"'
is "it is ready after that" "got /-/ready '200 OK'"
is "a changed configuration file is kept" "grep -qx '#kept' /etc/default/pilotlight"
systemctl disable --now pilotlight.service 2>/dev/null
dpkg -i --force-confold $deb >/run/dpkg 2>&1
is "what was disabled stays so" '! systemctl is-active pilotlight.service'
systemctl enable --now pilotlight.service 2>/dev/null

# --- an agent and a server, here on one machine
systemctl disable --now pilotlight.service 2>/dev/null
echo 'PILOTLIGHT_SERVER=http://127.0.0.1:7100' >>/etc/default/pilotlight-agent
systemctl enable --now pilotlight-server.service pilotlight-agent.service 2>/dev/null
is "the server is active" 'systemctl is-active pilotlight-server.service'
is "the agent is active" 'systemctl is-active pilotlight-agent.service'
is "the server is ready" "got /-/ready '200 OK'"
is "it has the profiles of before" 'sampled /usr/bin/bash'
is "the agent has the six capabilities and no other" 'privileges pilotlight-agent.service'
is "what it starts has none, again" 'children pilotlight-agent.service'
is "the server has none" "grep -qx 'CapPrm:	0000000000000000' \"/proc/\$(systemctl show --value -p MainPID pilotlight-server.service)/status\""
cp /usr/bin/bash /root/sent
/root/sent -c 'while :; do :; done' &
load=$!
is "what the agent samples arrives" 'sampled /root/sent'
systemctl stop pilotlight-server.service
is "it spools while the server is away" 'test "$(find /var/lib/pilotlight-agent/spool -type f | wc -l)" -gt 0'
systemctl start pilotlight-server.service
is "the spool is empty once the server is back" "! grep . <(find /var/lib/pilotlight-agent/spool -type f -name '*.batch')"
kill $load
echo "note: $(systemctl show -p MemoryCurrent,CPUUsageNSec,TasksCurrent pilotlight-agent.service pilotlight-server.service | tr '\n' ' ')"
systemctl disable --now pilotlight-server.service pilotlight-agent.service 2>/dev/null

# --- as a container's runtime starts an agent, on a kernel that opens perf events for CAP_SYS_ADMIN alone
echo 3 >/proc/sys/kernel/perf_event_paranoid
container() { # with these capabilities besides
	exec setpriv --no-new-privs --inh-caps=-all --bounding-set="-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search,+checkpoint_restore,+syslog$1" \
		pilotlight agent --server http://127.0.0.1:7100 --listen 127.0.0.1:7101 --data /root/container --cache /root/container/cache \
		--off-file /proc/1/root/run/container.off
}
mkdir /root/container
is "the six capabilities are not enough" '(! container "" 2>&1) | grep -q perf_event_paranoid=2'
container ,+sys_admin 2>/run/container.log &
agent=$!
is "with CAP_SYS_ADMIN it samples" 'grep -q "first sample taken" /run/container.log'
is "without CAP_SYS_ADMIN" "grep -qx 'CapPrm:	000001c400080004' /proc/$agent/status"
touch /run/container.off
is "it is switched off by the file of the machine" 'grep -q "sampling is off" /run/container.log'
kill $agent
wait $agent
systemctl enable --now pilotlight.service 2>/dev/null

# --- removed
is "it is ready once more" "got /-/ready '200 OK'"
dpkg -r pilotlight >/run/dpkg 2>&1 && ok "dpkg removes it" || failed "dpkg removes it"
is "no process of it is left" '! pgrep -u pilotlight'
is "configuration is left" 'test -e /etc/default/pilotlight'
is "profiles are left" 'test -d /var/lib/pilotlight'
is "the cache is not" '! test -e /var/cache/pilotlight'
dpkg -i --force-confmiss $deb >/run/dpkg 2>&1
is "it goes on where it was" 'sampled /usr/bin/bash'

# --- purged
dpkg -P pilotlight >/run/dpkg 2>&1 && ok "dpkg purges it" || failed "dpkg purges it"
grep '^pilotlight:' /run/dpkg | sed 's/^/note: /'
files >/run/after
getent passwd >/run/passwd.after
diff /run/before /run/after | grep '^[<>]' | grep -Ev '^> /var/lib/pilotlight(-agent)?[ /]' >/run/left
if [ -s /run/left ]; then
	sed 's/^/note: /' /run/left
	failed "nothing but profiles is left"
else
	ok "nothing but profiles is left"
fi
is "its user is gone" 'diff /run/passwd.before /run/passwd.after'
is "the profiles are root's" "test \"\$(stat -c '%U %G %a' /var/lib/pilotlight)\" = 'root root 700'"
is "all of them" '! grep . <(find /var/lib/pilotlight /var/lib/pilotlight-agent ! -user root)'
is "systemd knows nothing of it" '! systemctl cat pilotlight.service'
dpkg -i $deb >/run/dpkg 2>&1
is "the next installation has the profiles again" 'sampled /usr/bin/bash'
echo "done"
