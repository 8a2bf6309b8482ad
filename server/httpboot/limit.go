package httpboot

import (
	"net"
	"sync"
)

// limitListener bounds the open connections, in all and of one address, so that
// a flood waits in the kernel's queue and one PC cannot keep the others out.
type limitListener struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	once  sync.Once

	perHost int
	mu      sync.Mutex
	hosts   map[string]int
}

func newLimitListener(l net.Listener, total, perHost int) *limitListener {
	return &limitListener{
		Listener: l, slots: make(chan struct{}, total), done: make(chan struct{}),
		perHost: perHost, hosts: map[string]int{},
	}
}

func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			return nil, err
		}
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		if l.enter(host) {
			return &limitConn{Conn: c, release: func() { l.leave(host) }}, nil
		}
		_ = c.Close()
	}
}

func (l *limitListener) enter(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hosts[host] >= l.perHost {
		return false
	}
	l.hosts[host]++
	return true
}

func (l *limitListener) leave(host string) {
	l.mu.Lock()
	if l.hosts[host]--; l.hosts[host] == 0 {
		delete(l.hosts, host)
	}
	l.mu.Unlock()
	<-l.slots
}

func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type limitConn struct {
	net.Conn
	once    sync.Once
	release func()
}

func (c *limitConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.release)
	return err
}
