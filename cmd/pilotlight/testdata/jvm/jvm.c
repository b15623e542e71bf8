/*
 * jvm: what of a Java virtual machine one can ask. It maps the file that it is given as code, and when it is sent SIGQUIT
 * while /tmp/.attach_pidPID is there it listens at /tmp/.java_pidPID, answers one question, and has written what that was to
 * /tmp/perf-PID.map. With -Xrs it leaves SIGQUIT alone, with -mute it never listens.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void taken(int sig) { (void)sig; }

int main(int argc, char **argv)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	char file[64], question[64] = { 0 };
	int code = open(argv[1], O_RDONLY), fd, conn;

	if (code < 0 || mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, code, 0) == MAP_FAILED)
		err(1, "map %s", argv[1]);
	if (argc == 2 || strcmp(argv[2], "-Xrs") != 0)
		signal(SIGQUIT, taken);
	puts("runs");
	fflush(stdout);
	do
		pause();
	while (argc > 2);

	snprintf(file, sizeof(file), "/tmp/.attach_pid%d", getpid());
	if (access(file, F_OK) < 0)
		err(1, "%s", file);
	snprintf(at.sun_path, sizeof(at.sun_path), "/tmp/.java_pid%d", getpid());
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 1) < 0)
		err(1, "%s", at.sun_path);
	conn = accept(fd, NULL, NULL);
	if (conn < 0 || read(conn, question, sizeof(question) - 1) < 0)
		err(1, "question");
	snprintf(file, sizeof(file), "/tmp/perf-%d.map", getpid());
	FILE *map = fopen(file, "w");
	if (map == NULL)
		err(1, "%s", file);
	fprintf(map, "1000 10 %s\n", question + 2);
	fclose(map);
	if (write(conn, "0\n", 2) < 0)
		err(1, "answer");
	unlink(at.sun_path);
}
