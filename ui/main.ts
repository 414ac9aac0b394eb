/** The page: tabs over one answer that is asked for again and again. */
import htm from 'htm';
import { type ComponentType, h, render } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import type { ClusterMessage } from '../daemon/messages.ts';
import { ask } from './ask.ts';
import {
  Drops,
  Explain,
  Flows,
  Nodes,
  type Question,
  type SectionProps,
  ServiceMap,
  Subnets,
  Timeline,
} from './sections.ts';
import { clock } from './model.ts';

const html = htm.bind(h);
const ASK_EVERY_MS = 2_500;

const SECTIONS: readonly (readonly [string, string, ComponentType<SectionProps>])[] = [
  ['nodes', 'Nodes and links', Nodes],
  ['services', 'Service map', ServiceMap],
  ['drops', 'Drops', Drops],
  ['flows', 'Flows', Flows as ComponentType<SectionProps>],
  ['subnets', 'Subnets', Subnets],
  ['explain', 'Explain', Explain],
  ['timeline', 'Timeline', Timeline],
];

const NO_QUESTION: Question = { from: '', to: '', port: '', protocol: 'TCP' };

function sectionOfHash(): string {
  const name = location.hash.slice(1);
  return SECTIONS.some(([id]) => id === name) ? name : 'nodes';
}

function App() {
  const [cluster, setCluster] = useState<ClusterMessage | null>(null);
  const [problem, setProblem] = useState('');
  const [section, setSection] = useState(sectionOfHash);
  const [question, setQuestion] = useState(NO_QUESTION);
  const tabs = useRef<HTMLDivElement>(null);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    let isOver = false;
    const look = async (): Promise<void> => {
      try {
        // A page that nobody sees asks nothing.
        if (!document.hidden) setCluster(await ask<ClusterMessage>('/v1/cluster'));
        setProblem('');
      } catch (error) {
        setProblem((error as Error).message);
      }
      if (!isOver) timer = setTimeout(() => void look(), ASK_EVERY_MS);
    };
    void look();
    const turned = (): void => setSection(sectionOfHash());
    addEventListener('hashchange', turned);
    return () => {
      isOver = true;
      clearTimeout(timer);
      removeEventListener('hashchange', turned);
    };
  }, []);
  const go = (id: string): void => {
    location.hash = id;
    setSection(id);
  };
  const explain = (it: Question): void => {
    setQuestion(it);
    go('explain');
  };
  const steps: Readonly<Record<string, (at: number) => number>> = {
    ArrowRight: (at) => (at + 1) % SECTIONS.length,
    ArrowLeft: (at) => (at + SECTIONS.length - 1) % SECTIONS.length,
    Home: () => 0,
    End: () => SECTIONS.length - 1,
  };
  const key = (event: KeyboardEvent): void => {
    const at = SECTIONS.findIndex(([id]) => id === section);
    const next = Object.hasOwn(steps, event.key) ? steps[event.key]?.(at) : undefined;
    if (next === undefined) return;
    event.preventDefault();
    go(SECTIONS[next]![0]);
    (tabs.current!.children[next] as HTMLElement).focus();
  };
  const shown = SECTIONS.find(([id]) => id === section)!;
  const silent = cluster?.nodes.filter(({ answer }) => answer === null).length ?? 0;
  return html`<main>
    <header>
      <h1>Weft</h1>
      ${
        cluster !== null &&
        html`<span class="quiet">
          ${cluster.nodes.length} nodes, as ${cluster.node} sees them at ${clock(cluster.time)}
        </span>`
      }
      ${silent > 0 && html`<span class="bad">${silent} do not answer</span>`}
      <span class="bad" role="alert">${problem}</span>
    </header>
    <div role="tablist" aria-label="Sections" ref=${tabs} onKeyDown=${key}>
      ${SECTIONS.map(
        ([id, title]) =>
          html`<button
            role="tab"
            id=${`tab-${id}`}
            aria-controls="section"
            aria-selected=${id === section}
            tabindex=${id === section ? 0 : -1}
            onClick=${() => go(id)}
          >
            ${title}
          </button>`,
      )}
    </div>
    <div role="tabpanel" id="section" aria-labelledby=${`tab-${section}`}>
      ${
        cluster === null
          ? html`<p class="quiet">Asking the nodes…</p>`
          : h(shown[2], { cluster, question, explain, key: section })
      }
    </div>
  </main>`;
}

const root = document.querySelector('#app')!;
root.replaceChildren();
render(h(App, {}), root);
