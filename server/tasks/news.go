package tasks

import "sync"

// news wakes those who wait for something to happen to a task, and nobody else: of three hundred machines each
// reports every second, and who looks at one task has no business with the others.
type news struct {
	mu      sync.Mutex
	waiting map[watched]*listeners
}

// watched is what somebody waits for.
type watched struct {
	task     string
	progress bool // also reports that change no state
}

// listeners are those who wait for the same.
type listeners struct {
	count int
	once  chan struct{} // closed at the next change
}

// Watch gives what tells of the changes of a task: of its states, and with progress of every report. Each call of
// the first function gives a channel that is closed at the next change; the second one ends the watching.
func (s *Service) Watch(task string, progress bool) (next func() <-chan struct{}, stop func()) {
	n, what := &s.news, watched{task, progress}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waiting == nil {
		n.waiting = map[watched]*listeners{}
	}
	l := n.waiting[what]
	if l == nil {
		l = &listeners{once: make(chan struct{})}
		n.waiting[what] = l
	}
	l.count++
	next = func() <-chan struct{} {
		n.mu.Lock()
		defer n.mu.Unlock()
		return l.once
	}
	return next, sync.OnceFunc(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if l.count--; l.count == 0 {
			delete(n.waiting, what)
		}
	})
}

// wake tells who watches tasks that their states have changed.
func (s *Service) wake(tasks ...string) {
	n := &s.news
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, task := range tasks {
		n.waiting[watched{task, false}].wake()
		n.waiting[watched{task, true}].wake()
	}
}

// report tells who watches the progress of a task that there was a report.
func (n *news) report(task string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting[watched{task, true}].wake()
}

// wakeAll is for the rare change that may concern several tasks: a failure cancels what else was ordered for
// the machine.
func (s *Service) wakeAll() {
	n := &s.news
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.waiting {
		l.wake()
	}
}

func (l *listeners) wake() {
	if l != nil {
		close(l.once)
		l.once = make(chan struct{})
	}
}
