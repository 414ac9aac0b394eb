/** The sections of the page, each from the same answer. */
import htm from 'htm';
import { h } from 'preact';
import { useEffect, useMemo, useState } from 'preact/hooks';
import type {
  ClusterFlowsMessage,
  ClusterMessage,
  DropMessage,
  ExplainMessage,
  FlowMessage,
} from '../daemon/messages.ts';
import { ask } from './ask.ts';
import { Chart } from './chart.ts';
import { FlowList } from './flow-list.ts';
import { Graph } from './graph.ts';
import {
  bitRate,
  clock,
  clusterRates,
  destinationText,
  duration,
  endName,
  joinFlows,
  echoesText,
  linkGrade,
  linkRows,
  nodeGraph,
  serviceGraph,
  withPort,
  worstLink,
} from './model.ts';

const html = htm.bind(h);
const FLOWS_EVERY_MS = 2_000;
const FLOWS_MAX = 5_000;
/** More are not read. */
const LINKS_MAX = 100;

export interface Question {
  readonly from: string;
  readonly to: string;
  readonly port: string;
  readonly protocol: string;
}

export interface SectionProps {
  readonly cluster: ClusterMessage;
  readonly question: Question;
  /** Goes to Explain. */
  readonly explain: (question: Question) => void;
}

export function Nodes({ cluster }: SectionProps) {
  const graph = useMemo(() => nodeGraph(cluster), [cluster]);
  const columns = useMemo(() => clusterRates(cluster.nodes), [cluster]);
  return html`<div>
    <div class="columns">
      <section class="card">
        <h2>Links</h2>
        <${Graph}
          graph=${graph}
          label="Nodes and the links between them; the table says the same"
        />
      </section>
      <section class="card">
        <h2>Throughput of all nodes</h2>
        <${Chart} columns=${columns} label="Bits a second that nodes sent each other" />
      </section>
    </div>
    <section class="card">
      <h2>Nodes</h2>
      <table id="nodes">
        <thead>
          <tr>
            <th>node</th>
            <th>state</th>
            <th>underlay</th>
            <th>subnet</th>
            <th class="number">pods</th>
            <th>worst link</th>
            <th class="number">sent</th>
            <th class="number">received</th>
            <th class="number">drops/s</th>
          </tr>
        </thead>
        <tbody>
          ${cluster.nodes.map(
            ({ key, name, publicIp, publicIpv6, subnet, ipv6Subnet, answer, problem }) => {
              const rate = answer?.rates.at(-1);
              const link = worstLink(answer?.links ?? []);
              const state = answer === null ? problem : answer.ready ? 'ready' : answer.reasons[0];
              return html`<tr key=${key} data-node=${name}>
                <td>${name}</td>
                <td class=${answer === null ? 'bad' : answer.ready ? 'good' : 'warn'}>${state}</td>
                <td>${publicIp ?? publicIpv6}</td>
                <td>${subnet ?? ipv6Subnet}</td>
                <td class="number">${answer?.pods ?? ''}</td>
                <td>
                  ${answer === null ? '' : link === null ? 'not measured yet' : echoesText(link.overlay)}
                </td>
                <td class="number">${rate === undefined ? '' : bitRate(rate.outBytes)}</td>
                <td class="number">${rate === undefined ? '' : bitRate(rate.inBytes)}</td>
                <td class="number">${rate?.drops ?? ''}</td>
              </tr>`;
            },
          )}
        </tbody>
      </table>
    </section>
    <${LinkTable} cluster=${cluster} />
  </div>`;
}

const rateText = (bytesPerS: number | null | undefined): string =>
  bytesPerS === null || bytesPerS === undefined ? '' : bitRate(bytesPerS);

function LinkTable({ cluster }: Pick<SectionProps, 'cluster'>) {
  const { rows, total } = useMemo(() => linkRows(cluster.nodes, LINKS_MAX), [cluster]);
  return html`<section class="card">
    <h2>Each link</h2>
    ${
      total > rows.length &&
      html`<p class="quiet">The ${rows.length} that lose most, then the busiest, of ${total}.</p>`
    }
    <table id="links">
      <thead>
        <tr>
          <th>from</th>
          <th>to</th>
          <th>through the tunnel</th>
          <th>outside of it</th>
          <th class="number">sent</th>
          <th class="number">received</th>
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          ({ id, from, to, link }) =>
            html`<tr key=${id}>
              <td>${from}</td>
              <td>${to}</td>
              <td class=${linkGrade(link)}>${echoesText(link.overlay)}</td>
              <td>${echoesText(link.underlay)}</td>
              <td class="number">${rateText(link.traffic?.sentBytesPerS)}</td>
              <td class="number">${rateText(link.traffic?.receivedBytesPerS)}</td>
            </tr>`,
        )}
      </tbody>
    </table>
  </section>`;
}

export function ServiceMap({ cluster }: SectionProps) {
  const graph = useMemo(() => serviceGraph(cluster), [cluster]);
  return html`<div>
    <section class="card">
      <h2>Who speaks to whom</h2>
      <p class="quiet">
        Flows of the last five minutes. Squares are Services; a broken line is denied, a yellow one
        in part.
      </p>
      <${Graph}
        graph=${graph}
        label="Services and workloads; the table says the same"
        tall=${true}
      />
    </section>
    <section class="card">
      <table>
        <thead>
          <tr>
            <th>from</th>
            <th>to</th>
            <th class="number">forwarded</th>
            <th class="number">dropped</th>
          </tr>
        </thead>
        <tbody>
          ${cluster.edges.map(
            ({ from, to, forwarded, dropped }) =>
              html`<tr key=${`${from.kind} ${from.name} ${to.kind} ${to.name}`}>
                <td>${from.name}</td>
                <td>${to.kind === 'service' ? `Service ${to.name}` : to.name}</td>
                <td class="number">${forwarded}</td>
                <td class=${dropped > 0 ? 'number bad' : 'number'}>${dropped}</td>
              </tr>`,
          )}
        </tbody>
      </table>
    </section>
  </div>`;
}

const questionOf = ({ source, destination, backend, protocol }: FlowMessage): Question => {
  const end = backend ?? destination;
  return {
    from: endName(source),
    to: endName(end),
    port: end.port === null ? '' : String(end.port),
    protocol,
  };
};

export function Drops({ cluster, explain }: SectionProps) {
  const row = ({ reason, because, count, last }: DropMessage) =>
    html`<tr key=${`${reason} ${because}`}>
      <td class="number">${count}</td>
      <td class="bad">${reason}</td>
      <td class="wrap">${because ?? ''}</td>
      <td>${clock(last.time)} on ${last.node}</td>
      <td class="wrap">${withPort(last.source)} → ${destinationText(last)}</td>
      <td>
        ${
          reason.startsWith('policy') &&
          html`<button class="link" onClick=${() => explain(questionOf(last))}>the rule</button>`
        }
      </td>
    </tr>`;
  return html`<section class="card">
    <h2>What was dropped, and why</h2>
    ${
      cluster.drops.length === 0
        ? html`<p class="quiet">Nothing in the last five minutes.</p>`
        : html`<table>
            <thead>
              <tr>
                <th class="number">packets</th>
                <th>reason</th>
                <th>rule</th>
                <th>last</th>
                <th>from and to</th>
                <th></th>
              </tr>
            </thead>
            <tbody>
              ${cluster.drops.map(row)}
            </tbody>
          </table>`
    }
  </section>`;
}

/** What is typed, once nothing more has been for a while. */
function useSettled(text: string): string {
  const [settled, setSettled] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(text), 400);
    return () => clearTimeout(timer);
  }, [text]);
  return settled;
}

export function Flows() {
  const [flows, setFlows] = useState<readonly FlowMessage[]>([]);
  const [problem, setProblem] = useState('');
  const [verdict, setVerdict] = useState('');
  const [end, setEnd] = useState('');
  const [isLive, setLive] = useState(true);
  const wanted = useSettled(end.trim());
  useEffect(() => {
    setFlows([]);
    setProblem('');
  }, [verdict, wanted]);
  useEffect(() => {
    if (!isLive) return undefined;
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    let since = '5m';
    const look = async (): Promise<void> => {
      const query = new URLSearchParams({ since, limit: String(FLOWS_MAX) });
      if (verdict !== '') query.set('verdict', verdict);
      if (wanted !== '') query.set('with', wanted);
      try {
        const found = await ask<ClusterFlowsMessage>(`/v1/cluster/flows?${query}`, stop.signal);
        setFlows((known) => joinFlows(known, found.flows, FLOWS_MAX));
        setProblem(found.absent.length === 0 ? '' : `does not answer: ${found.absent.join('; ')}`);
        since = '15s';
      } catch (error) {
        if (stop.signal.aborted) return;
        setProblem((error as Error).message);
      }
      if (!stop.signal.aborted) timer = setTimeout(() => void look(), FLOWS_EVERY_MS);
    };
    void look();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [verdict, wanted, isLive]);
  return html`<div>
    <form onSubmit=${(event: Event) => event.preventDefault()}>
      <label>
        verdict
        <select value=${verdict} onChange=${(event: Event) => setVerdict(valueOf(event))}>
          <option value="">all</option>
          <option value="forwarded">forwarded</option>
          <option value="dropped">dropped</option>
        </select>
      </label>
      <label>
        from or to
        <input
          type="search"
          placeholder="shop/web, shop/, 10.244.1.0/24, n1"
          size="34"
          maxlength="100"
          value=${end}
          onInput=${(event: Event) => setEnd(valueOf(event))}
        />
      </label>
      <button
        class="button"
        type="button"
        aria-pressed=${!isLive}
        onClick=${() => setLive(!isLive)}
      >
        ${isLive ? 'Hold' : 'Go on'}
      </button>
      <span class="quiet" role="status">${flows.length} flows${isLive ? ', live' : ', held'}</span>
      <span class="bad" role="alert">${problem}</span>
    </form>
    <${FlowList} flows=${flows} />
  </div>`;
}

const valueOf = (event: Event): string =>
  (event.currentTarget as HTMLInputElement | HTMLSelectElement).value;

export function Subnets({ cluster }: SectionProps) {
  return html`<section class="card">
    <h2>Who holds which subnet</h2>
    <table>
      <thead>
        <tr>
          <th>subnet</th>
          <th>IPv6 subnet</th>
          <th>node</th>
          <th>underlay</th>
          <th>ends in</th>
        </tr>
      </thead>
      <tbody>
        ${cluster.nodes.map(
          ({ key, subnet, ipv6Subnet, name, publicIp, publicIpv6, reserved, answer }) => {
            const lease = answer?.lease ?? null;
            const ends = reserved
              ? 'never: reserved'
              : lease === null
                ? 'not told'
                : duration(lease.endsInS);
            return html`<tr key=${key}>
              <td>${subnet ?? ''}</td>
              <td>${ipv6Subnet ?? ''}</td>
              <td>${name}</td>
              <td>${[publicIp, publicIpv6].filter(Boolean).join(', ')}</td>
              <td>${ends}</td>
            </tr>`;
          },
        )}
      </tbody>
    </table>
  </section>`;
}

export function Explain({ question: asked }: SectionProps) {
  const [question, setQuestion] = useState(asked);
  const [answer, setAnswer] = useState<ExplainMessage | null>(null);
  const [problem, setProblem] = useState('');
  const look = async (it: Question): Promise<void> => {
    try {
      setAnswer(await ask<ExplainMessage>(`/v1/explain?${new URLSearchParams({ ...it })}`));
      setProblem('');
    } catch (error) {
      setAnswer(null);
      setProblem((error as Error).message);
    }
  };
  useEffect(() => {
    setQuestion(asked);
    if (asked.from !== '') void look(asked);
  }, [asked]);
  const field = (name: keyof Question, label: string, hint: string, size: number) =>
    html`<label>
      ${label}
      <input
        name=${name}
        placeholder=${hint}
        size=${size}
        maxlength="300"
        value=${question[name]}
        onInput=${(event: Event) => setQuestion({ ...question, [name]: valueOf(event) })}
      />
    </label>`;
  const submit = (event: Event): void => {
    event.preventDefault();
    void look(question);
  };
  const words = { allow: 'Yes', deny: 'No', partly: 'It depends on the endpoint' };
  return html`<section class="card">
    <h2>May A reach B?</h2>
    <form onSubmit=${submit}>
      ${field('from', 'from', 'shop/web, node or address', 28)}
      ${field('to', 'to', 'pod, service/shop/api, address', 32)} ${field('port', 'port', '80', 8)}
      <label>
        protocol
        <select
          name="protocol"
          value=${question.protocol}
          onChange=${(event: Event) => setQuestion({ ...question, protocol: valueOf(event) })}
        >
          ${['TCP', 'UDP', 'SCTP', 'ICMP'].map((it) => html`<option value=${it}>${it}</option>`)}
        </select>
      </label>
      <button class="button" type="submit">Ask</button>
    </form>
    <p class="bad" role="alert">${problem}</p>
    <div role="status">
      ${
        answer !== null &&
        html`<p class="verdict">
            <span
              class=${answer.verdict === 'allow' ? 'good' : answer.verdict === 'deny' ? 'bad' : 'warn'}
            >
              ${words[answer.verdict]}
            </span>
            , ${answer.from} → ${answer.to} ${answer.protocol} ${answer.port || ''}
          </p>
          <ol>
            ${answer.steps.map(
              ({ what, verdict, because }) =>
                html`<li>
                  <span class=${verdict === 'allow' ? 'good' : 'bad'}>${verdict}</span>, ${what}:
                  ${' '}${because}
                </li>`,
            )}
          </ol>`
      }
    </div>
  </section>`;
}

export function Timeline({ cluster }: SectionProps) {
  return html`<section class="card">
    <h2>What has changed</h2>
    <table>
      <thead>
        <tr>
          <th>time</th>
          <th>node</th>
          <th>what</th>
          <th></th>
        </tr>
      </thead>
      <tbody>
        ${cluster.timeline.map(
          ({ time, node, kind, text }, i) =>
            html`<tr key=${`${time} ${node} ${text} ${i}`}>
              <td>${clock(time)}</td>
              <td>${node}</td>
              <td>${kind}</td>
              <td class="wrap">${text}</td>
            </tr>`,
        )}
      </tbody>
    </table>
  </section>`;
}
