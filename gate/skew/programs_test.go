package skew

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// streams are a program's.
type streams struct {
	in       io.Reader
	out, err io.Writer
	tty      bool
	resize   <-chan remotecommand.TerminalSize
}

// files are what a pod's programs share: the file's content by its path.
type files struct {
	mu      sync.Mutex
	content map[string][]byte
}

// programs are what can be run in a container.
var programs = map[string]func(ctx context.Context, k *kubelet, pod string, args []string, s streams) error{
	"echo": func(_ context.Context, _ *kubelet, _ string, args []string, s streams) error {
		_, err := fmt.Fprintln(s.out, strings.Join(args, " "))
		return err
	},
	// warn says something on both outputs and fails.
	"warn": func(_ context.Context, _ *kubelet, _ string, args []string, s streams) error {
		_, err := fmt.Fprintln(s.out, "to the output")
		if s.err != nil {
			_, failed := fmt.Fprintln(s.err, "to the error output")
			err = errors.Join(err, failed)
		}
		if err != nil {
			return err
		}
		return exit(args)
	},
	"exit": func(_ context.Context, _ *kubelet, _ string, args []string, _ streams) error { return exit(args) },
	"cat": func(_ context.Context, _ *kubelet, _ string, _ []string, s streams) error {
		_, err := io.Copy(s.out, s.in)
		return err
	},
	// produce writes so many bytes of a pattern.
	"produce": func(_ context.Context, _ *kubelet, _ string, args []string, s streams) error {
		n, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return err
		}
		_, err = io.Copy(s.out, pattern(n))
		return err
	},
	// sum reads its input to the end and names it.
	"sum": func(_ context.Context, _ *kubelet, _ string, _ []string, s streams) error {
		text, err := sum(s.in)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(s.out, text)
		return err
	},
	// tick writes a line each 100 ms.
	"tick": func(ctx context.Context, _ *kubelet, _ string, args []string, s streams) error {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		for i := range n {
			if _, err := fmt.Fprintf(s.out, "tick %d\n", i); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
		}
		return nil
	},
	// hold says that it runs, and waits for the end of its client.
	"hold": func(_ context.Context, k *kubelet, _ string, args []string, s streams) error {
		if _, err := fmt.Fprintln(s.out, "holding"); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, s.in)
		close(k.goneOf(args[0]))
		return err
	},
	// size says whether it has a terminal, and how large it is.
	"size": func(ctx context.Context, _ *kubelet, _ string, _ []string, s streams) error {
		if !s.tty {
			_, err := fmt.Fprintln(s.out, "no terminal")
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case size := <-s.resize:
			_, err := fmt.Fprintf(s.out, "%d columns, %d rows\r\n", size.Width, size.Height)
			return err
		}
	},
	// What kubectl cp runs.
	"test": func(_ context.Context, _ *kubelet, _ string, _ []string, _ streams) error { return exit([]string{"1"}) },
	"tar": func(_ context.Context, k *kubelet, pod string, args []string, s streams) error {
		if i := slices.Index(args, "-C"); i >= 0 {
			return k.filesOf(pod).unpack(args[i+1], s.in)
		}
		if args[0] == "cf" {
			return k.filesOf(pod).pack(args[len(args)-1], s.out)
		}
		return k.filesOf(pod).unpack(".", s.in)
	},
}

// exec runs a program; an unknown one fails as with a container runtime.
func (k *kubelet) exec(ctx context.Context, pod string, cmd []string, s streams) error {
	program, known := programs[cmd[0]]
	if !known {
		return fmt.Errorf("exec: %q: executable file not found in $PATH", cmd[0])
	}
	return program(ctx, k, pod, cmd[1:], s)
}

func exit(args []string) error {
	code, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if code == 0 {
		return nil
	}
	return utilexec.CodeExitError{Err: fmt.Errorf("exit status %d", code), Code: code}
}

// pattern is so many bytes without a short period, so that any that is lost, doubled or moved shows in the sum.
func pattern(n int64) io.Reader { return io.LimitReader(&counter{}, n) }

type counter struct{ next uint32 }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c.next ^ c.next>>8*31 ^ c.next>>16*17)
		c.next++
	}
	return len(p), nil
}

// sum names what a reader yields up to its end: its length and its hash.
func sum(r io.Reader) (string, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return fmt.Sprintf("%d bytes %x", n, h.Sum(nil)), err
}

func (k *kubelet) filesOf(pod string) *files {
	k.mu.Lock()
	defer k.mu.Unlock()
	f, ok := k.files[pod]
	if !ok {
		f = &files{content: map[string][]byte{}}
		k.files[pod] = f
	}
	return f
}

// unpack stores an archive's files below the folder.
func (f *files) unpack(dir string, archive io.Reader) error {
	r := tar.NewReader(archive)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.content[path.Join(dir, header.Name)] = data
		f.mu.Unlock()
	}
}

// pack writes an archive of the file, or of all files below the folder.
func (f *files) pack(name string, archive io.Writer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	name = path.Clean(name)
	found := false
	for _, file := range slices.Sorted(maps.Keys(f.content)) {
		if file != name && !strings.HasPrefix(file, name+"/") {
			continue
		}
		found = true
		if err := w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(file, "/"), Mode: 0o644, Size: int64(len(f.content[file]))}); err != nil {
			return err
		}
		if _, err := w.Write(f.content[file]); err != nil {
			return err
		}
	}
	if !found {
		return utilexec.CodeExitError{Err: errors.New("exit status 2"), Code: 2}
	}
	if err := w.Close(); err != nil {
		return err
	}
	_, err := io.Copy(archive, &b)
	return err
}
