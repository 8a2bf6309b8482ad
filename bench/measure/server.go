package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
)

// The server and the client of measure delta are two processes, so that the client's memory can be
// measured. Requests are pairs of chunk ids, answers are frames or differences, each behind its length.

// serve answers on a Unix socket.
func serve(directory, socket string) error {
	store, err := local.Open(directory, local.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	differ, err := chunkstore.NewDiffer(store)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	answer := func(send func(r *http.Request, wants []chunk.Want, yield func([]byte) error) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			var wants []chunk.Want
			for ; len(b) >= 64; b = b[64:] {
				wants = append(wants, chunk.Want{ID: chunk.ID(b[:32]), Base: chunk.ID(b[32:64])})
			}
			err = send(r, wants, func(frame []byte) error {
				_, err := w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(frame))), frame...))
				return err
			})
			if err != nil {
				panic(http.ErrAbortHandler)
			}
		}
	}
	mux.Handle("/deltas", answer(func(r *http.Request, wants []chunk.Want, yield func([]byte) error) error {
		return differ.Deltas(r.Context(), wants, yield)
	}))
	mux.Handle("/frames", answer(func(r *http.Request, wants []chunk.Want, yield func([]byte) error) error {
		var ids []chunk.ID
		for _, w := range wants {
			ids = append(ids, w.ID)
		}
		return store.Frames(r.Context(), ids, yield)
	}))
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	return http.Serve(l, mux)
}

// server is a clone.DeltaSource.
type server struct{ client *http.Client }

// startServer runs measure serve.
func startServer(directory string) (server, func(), error) {
	dir, err := os.MkdirTemp("", "measure")
	if err != nil {
		return server{}, nil, err
	}
	socket := filepath.Join(dir, "socket")
	cmd := exec.Command(os.Args[0], "serve", directory, socket)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return server{}, nil, err
	}
	stop := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	for range 100 {
		if _, err = os.Stat(socket); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		stop()
		return server{}, nil, err
	}
	return server{&http.Client{Transport: &http.Transport{DialContext: dial}}}, stop, nil
}

func (s server) Frames(ctx context.Context, ids []chunk.ID, yield func([]byte) error) error {
	wants := make([]chunk.Want, len(ids))
	for i, id := range ids {
		wants[i].ID = id
	}
	return s.get(ctx, "/frames", wants, yield)
}

func (s server) Deltas(ctx context.Context, wants []chunk.Want, yield func([]byte) error) error {
	return s.get(ctx, "/deltas", wants, yield)
}

func (s server) get(ctx context.Context, path string, wants []chunk.Want, yield func([]byte) error) error {
	var body []byte
	for _, w := range wants {
		body = append(append(body, w.ID[:]...), w.Base[:]...)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://server"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var frame []byte
	for {
		var length [4]byte
		if _, err := io.ReadFull(response.Body, length[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		n := binary.LittleEndian.Uint32(length[:])
		if n > uint32(chunk.MaxFrameSize) {
			return fmt.Errorf("a frame of %d bytes", n)
		}
		if frame = frame[:0]; cap(frame) < int(n) {
			frame = make([]byte, 0, n)
		}
		frame = frame[:n]
		if _, err := io.ReadFull(response.Body, frame); err != nil {
			return err
		}
		if err := yield(frame); err != nil {
			return err
		}
	}
}
